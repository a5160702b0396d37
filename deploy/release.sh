#!/usr/bin/env bash
# Makes what is handed out, in dist/: archives with the programs, Debian packages, a list of all that is in each program (SBOM,
# CycloneDX), and checksums.
#
#   deploy/release.sh              build, then pack
#   deploy/release.sh --no-build   pack what the target directory has: space-agent, ground-station and perigee-man
#
# It needs cargo-deb and cargo-cyclonedx (cargo install --locked cargo-deb cargo-cyclonedx) and dpkg-dev. DIST names another folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
dist=$(realpath -m "${DIST:-dist}")
programs=(space-agent ground-station)
export CARGO_TARGET_DIR=$target
# The same commit gives the same archives.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

fail() {
    echo "release.sh: $*" >&2
    exit 1
}
for tool in cargo-deb cargo-cyclonedx; do
    command -v $tool >/dev/null || fail "$tool is missing: cargo install --locked $tool"
done
case ${1:-} in
"")
    cargo build --locked --release -p space-agent -p ground-station
    cargo build --locked -p perigee-man
    ;;
--no-build) ;;
*) fail "unknown argument $1" ;;
esac
for program in release/space-agent release/ground-station debug/perigee-man; do
    [ -x "$target/$program" ] || fail "$target/$program is missing: run without --no-build"
done

rm -rf "$dist"
mkdir -p "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
host=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
[ "$("$target/release/space-agent" --version)" = "space-agent $version" ] || fail "$target/release/space-agent is not version $version"

# Where the packages' assets look for them.
man=$target/release/man
rm -rf "$man"
"$target/debug/perigee-man" "$man"

for program in "${programs[@]}"; do
    side=${program%-station}
    folder=$work/$program-$version-$host
    mkdir -p "$folder/man1" "$folder/completions"
    cp "$target/release/$program" LICENSE CHANGELOG.md "deploy/config/${side#space-}.yaml" "$folder/"
    cp "$man/man1/$program"*.1 "$folder/man1/"
    cp "$man/completions/"{"$program.bash","_$program","$program.fish"} "$folder/completions/"
    tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -c "${folder##*/}" |
        gzip -9n >"$dist/${folder##*/}.tar.gz"
done

gzip -9nf "$man"/man1/*.1
for program in "${programs[@]}"; do
    # The release profile has stripped them.
    cargo deb --quiet --no-build --no-strip --locked -p "$program" -o "$dist/" >/dev/null
done

# cargo-cyclonedx writes beside each Cargo.toml, so that it gets a copy of the tree. Its folder is nobody's business.
mkdir "$work/src"
git ls-files -z | xargs -0 cp -P --parents -t "$work/src"
for program in "${programs[@]}"; do
    (cd "$work/src" && cargo cyclonedx -q --manifest-path "$program/Cargo.toml" --format json --spec-version 1.5 \
        --no-build-deps --target "$host" --override-filename sbom)
    sed "s|$work/src|/src|g" "$work/src/$program/sbom.json" >"$dist/$program-$version.cdx.json"
done

(cd "$dist" && sha256sum -- * >SHA256SUMS)
cat "$dist/SHA256SUMS"
