// Checks dashboards against Grafana's published schema, as its foundation SDK has it in Go: fields that it does not know, wrong
// types, missing fields and values out of bounds are errors, in panels, their options and their queries too.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func check(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !json.Valid(text) {
		return fmt.Errorf("not JSON")
	}
	var found dashboard.Dashboard
	if err := some(found.UnmarshalJSONStrict(text)); err != nil {
		return err
	}
	if err := some(found.Validate()); err != nil {
		return err
	}
	if newest := dashboard.NewDashboard().SchemaVersion; found.SchemaVersion != newest {
		return fmt.Errorf("schemaVersion %d, and Grafana's is %d", found.SchemaVersion, newest)
	}
	return nil
}

// some is the error, if there is one: the SDK hands out lists of none.
func some(err error) error {
	var all cog.BuildErrors
	if errors.As(err, &all) && len(all) == 0 {
		return nil
	}
	return err
}

func main() {
	plugins.RegisterDefaultPlugins()
	failed := false
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
		}
	}
	if failed || len(os.Args) < 2 {
		os.Exit(1)
	}
}
