"""Checks manifests: schema, names that must meet, privileges, and the configuration in the ConfigMap with ground-station itself."""

import os
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

VERSION = "1.37"
# Made by hand, as deploy/README.md says, with these keys.
SECRETS = {
    "perigee-link": {"satellite-ca.crt", "satellite-ca.crl"}
    | {f"station-station-{n}.{end}" for n in range(2) for end in ("crt", "key")},
    "perigee-ledger": {"password", "ca.crt"},
}

failures = []


def demand(holds, message):
    if not holds:
        failures.append(message)


def named(documents, kind):
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}


def schema(documents):
    for document in documents:
        try:
            kubernetes_validate.validate(document, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            failures.append(f"{document['kind']} {document['metadata']['name']}: {where}: {error.message}")


def workloads(documents):
    return [d for d in documents if d["kind"] in ("Deployment", "StatefulSet")]


def privileges(documents):
    """The Pod Security Standard `restricted`, and a root file system that cannot be written."""
    for work in workloads(documents):
        name, pod = work["metadata"]["name"], work["spec"]["template"]["spec"]
        demand(pod["securityContext"].get("runAsNonRoot") is True, f"{name}: may run as root")
        demand(pod["securityContext"].get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{name}: no seccomp profile")
        demand(pod.get("automountServiceAccountToken") is False, f"{name}: gets a token for the cluster")
        demand(not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), f"{name}: sees the host")
        demand(all("hostPath" not in volume for volume in pod["volumes"]), f"{name}: mounts a folder of the host")
        for container in pod["containers"]:
            context = container["securityContext"]
            demand(context.get("allowPrivilegeEscalation") is False, f"{name}: may gain privileges")
            demand(context.get("readOnlyRootFilesystem") is True, f"{name}: may write to its image")
            demand(context.get("capabilities") == {"drop": ["ALL"]}, f"{name}: keeps capabilities")
            demand("limits" in container["resources"], f"{name}: no limit")
            demand({"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), f"{name}: a probe is missing")


def names_meet(documents):
    config_maps, accounts = named(documents, "ConfigMap"), named(documents, "ServiceAccount")
    pods = []
    for work in workloads(documents):
        name, template = work["metadata"]["name"], work["spec"]["template"]
        pod = template["spec"]
        ports = {port["name"] for container in pod["containers"] for port in container["ports"]}
        replicas = work["spec"]["replicas"]
        for n in range(replicas):
            labels = dict(template["metadata"]["labels"])
            if work["kind"] == "StatefulSet":
                labels["statefulset.kubernetes.io/pod-name"] = f"{name}-{n}"
            pods.append((labels, ports))
        selector = work["spec"]["selector"]["matchLabels"]
        demand(selector.items() <= template["metadata"]["labels"].items(), f"{name}: does not select its pods")
        budgets = [b for b in named(documents, "PodDisruptionBudget").values() if b["spec"]["selector"]["matchLabels"] == selector]
        demand(len(budgets) == 1 and replicas > 1, f"{name}: no budget for disruptions, or one pod")
        demand(pod["serviceAccountName"] in accounts, f"{name}: no such service account")
        volumes = {v["name"]: v for v in pod["volumes"]}
        claimed = {c["metadata"]["name"] for c in work["spec"].get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            secret, config = volume.get("secret"), volume.get("configMap")
            demand(secret is None or secret["secretName"] in SECRETS, f"{name}: no such Secret: {secret}")
            demand(config is None or config["name"] in config_maps, f"{name}: no such ConfigMap: {config}")
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            demand(mounted == volumes.keys() | claimed, f"{name}: mounts {mounted} of {volumes.keys() | claimed}")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                action = container[probe].get("tcpSocket") or container[probe].get("httpGet")
                demand(action["port"] in ports, f"{name}: {probe} asks a port that is not there")
    for name, service in named(documents, "Service").items():
        selector = service["spec"]["selector"].items()
        chosen = [ports for labels, ports in pods if selector <= labels.items()]
        demand(chosen, f"Service {name}: selects nothing")
        for port in service["spec"]["ports"]:
            demand(all(port["targetPort"] in ports for ports in chosen), f"Service {name}: no port {port['targetPort']}")
            demand(port["name"] != "link" or port["protocol"] == "UDP", f"Service {name}: QUIC is UDP")
    stations = next(work for work in workloads(documents) if work["kind"] == "StatefulSet")
    links = [s for s in named(documents, "Service").values() if s["spec"].get("type") == "LoadBalancer"]
    demand(len(links) == stations["spec"]["replicas"], "each station needs an address for satellites")


def configuration(documents, program):
    """`ground-station validate`, with certificates as the Secrets have them, for each station."""
    text = named(documents, "ConfigMap")["perigee"]["data"]["ground.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        pki = pathlib.Path(folder, "link")

        def run(*command, **env):
            return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | env)

        run(program, "pki", "init", "--dir", str(pki), "--domain", "example.org").check_returncode()
        for n in range(2):
            run(program, "pki", "issue", "station", f"station-{n}", "--dir", str(pki)).check_returncode()
        there = {file.name for file in pki.iterdir()}
        demand(SECRETS["perigee-link"] <= there, f"the Secret perigee-link is not what `pki` makes: {there}")
        ledger = pathlib.Path(folder, "ledger")
        ledger.mkdir()
        (ledger / "password").write_text("secret\n")
        (ledger / "ca.crt").write_bytes((pki / "station-ca.crt").read_bytes())
        config = pathlib.Path(folder, "ground.yaml")
        config.write_text(text.replace("/etc/perigee/", f"{folder}/").replace("/var/lib/perigee/ground", f"{folder}/state"))
        for station in ("station-0", "station-1"):
            done = run(program, "validate", "--config", str(config), STATION=station)
            demand(done.returncode == 0, f"{station}: {done.stdout}{done.stderr}")


def main():
    program, *files = sys.argv[1:]
    documents = [d for file in files for d in yaml.safe_load_all(pathlib.Path(file).read_text(encoding="utf-8"))]
    schema(documents)
    for document in documents:
        demand(document["kind"] == "Namespace" or document["metadata"].get("namespace") == "perigee",
               f"{document['kind']} {document['metadata']['name']}: not in the namespace")
    privileges(documents)
    names_meet(documents)
    configuration(documents, program)
    for failure in failures:
        print(f"failed: {failure}")
    print(f"{len(documents) if not failures else 0} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
