#!/usr/bin/env bash
# Installs the Debian packages of deploy/release.sh on a machine that is thrown away, starts both programs with systemd, uses them,
# installs over them, removes and purges them. That machine is a copy of this one's root (overlayfs) in namespaces of its own, with
# this machine's systemd as process 1.
#
#   tests/packages.sh [FOLDER]     the folder with the packages (dist)
#
# It needs root, overlayfs, and Debian's systemd, man-db, curl and iproute2.
set -euo pipefail

fail() {
    echo "packages: failed: $*" >&2
    exit 1
}

case ${1:-} in
namespaces)
    root=$2 dist=$3 out=$4
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || fail "no overlayfs"
    cd /mnt/root
    mkdir mnt/out mnt/old
    cp "$dist"/*.deb "$root/deploy/config/local/send.sh" "$root/tests/packages.sh" mnt/
    mount --bind "$out" mnt/out
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount --rbind /dev dev
    mount -t tmpfs tmpfs run
    mount -t tmpfs tmpfs tmp
    ip link set lo up
    # Images for containers forbid packages to start anything.
    rm -f usr/sbin/policy-rc.d
    cat >etc/systemd/system/test-of-packages.service <<'UNIT'
[Unit]
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/packages.sh inside
StandardOutput=file:/mnt/out/log
StandardError=file:/mnt/out/log
# The end of this is the end of the machine.
ExecStopPost=/bin/sh -c 'systemctl exit $EXIT_STATUS'
UNIT
    # Not chroot, in which a unit with PrivateUsers= cannot start.
    pivot_root . mnt/old
    cd /
    exec env -i container=other "PATH=$PATH" sh -c 'umount -l /mnt/old && exec /lib/systemd/systemd --system --unit=test-of-packages.service'
    ;;
inside) ;;
*)
    [ "$(id -u)" = 0 ] || fail "needs root"
    namespaces=(--mount --net --pid --cgroup --ipc --uts --fork --kill-child --propagation private)
    can='mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w o /mnt/r'
    if ! unshare "${namespaces[@]}" sh -c "$can && mount -t cgroup2 c /mnt/u" 2>/dev/null; then
        echo "packages: skipped: this machine gives no namespaces, no overlayfs or no cgroup2"
        exit 0
    fi
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    dist=$(realpath "${1:-$root/dist}")
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
    code=0
    timeout -k 5 300 unshare "${namespaces[@]}" "$root/tests/packages.sh" namespaces "$root" "$dist" "$out" || code=$?
    cat "$out/log" || true
    [ $code = 0 ] || fail "exit code $code"
    exit
    ;;
esac

cd /
# Not /tmp, which is emptied while the machine boots.
work=$(mktemp -d /var/tmp/packages-XXXXXX)
dist=/mnt
passed=0
ok() {
    passed=$((passed + 1))
    echo "packages: $*"
}
programs=(space-agent ground-station)
# is FILE MODE OWNER: what it must be.
is() { [ "$(stat -c '%a %U:%G' "$1")" = "$2 $3" ] || fail "$1 is $(stat -c '%a %U:%G' "$1"), not $2 $3"; }
until_true() {
    local what=$1 deadline=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "$what: not so after 60 s: $(journalctl -n 20 -u space-agent -u ground-station)"
        sleep 0.1
    done
}

! id perigee 2>/dev/null || fail "this machine has a user perigee already"
dpkg -i "$dist"/*.deb >$work/install.log 2>&1 || fail "dpkg -i: $(cat $work/install.log)"
for program in "${programs[@]}"; do
    [ "$(dpkg-query -W -f '${Status}' "$program")" = "install ok installed" ] || fail "$program is not installed"
    dpkg -L "$program" >"$work/$program.files"
    "$program" --version
done
id perigee >/dev/null || fail "no user perigee"
is /etc/perigee 750 root:perigee
is /etc/perigee/agent.yaml 640 root:perigee
is /etc/perigee/ground.yaml 640 root:perigee
ok "installed: user, folders and permissions"

for program in "${programs[@]}"; do
    man -w "$program" >/dev/null || fail "no man page of $program"
    man "$program-run" 2>&1 | grep -q -- --config || fail "the man page of $program run does not know --config"
    bash -c "source /usr/share/bash-completion/completions/$program && complete -p $program" >/dev/null || fail "no completion of $program"
done
for unit in space-agent ground-station perigee-exporter; do
    wrong=$(systemd-analyze verify --man=no "/usr/lib/systemd/system/$unit.service" 2>&1 | grep "$unit" || true)
    [ -z "$wrong" ] || fail "$wrong"
done
ok "man pages, completions and units"

# What the guide has an operator do; both programs on one machine, and files in the place of backends.
ground-station pki init --dir $work/pki --domain example.org >/dev/null
ground-station pki issue satellite sat-1 --dir $work/pki >/dev/null
ground-station pki issue station svalbard --dir $work/pki >/dev/null
for file in satellite-sat-1:satellite station-svalbard:station; do
    for end in crt key; do install -m 0600 "$work/pki/${file%:*}.$end" "/etc/perigee/${file#*:}.$end"; done
done
install -m 0644 $work/pki/satellite-ca.crt $work/pki/station-ca.crt /etc/perigee/
systemd-tmpfiles --create space-agent.conf ground-station.conf 2>/dev/null
is /etc/perigee/satellite.key 640 root:perigee
is /etc/perigee/station-ca.crt 644 root:perigee
sed -i 's/198\.51\.100\.7:4433/127.0.0.1:4433/; s/source: probe.*/source: manual/' /etc/perigee/agent.yaml
sed -i -e '/otlp_grpc\/jaeger: /d; /otlp_http\/prometheus: /d' -e 's/\[otlp_[a-z/]*\]/[file\/logs]/' /etc/perigee/ground.yaml

for program in "${programs[@]}"; do
    [ "$(systemctl is-enabled "$program" || true)" = disabled ] || fail "installing has enabled $program"
    setpriv --reuid perigee --regid perigee --clear-groups "$program" validate || fail "$program validate"
    systemctl enable --now --quiet "$program"
done
until_true "space-agent answers" space-agent status
until_true "ground-station answers" curl -sf http://127.0.0.1:13134/
sh "$dist/send.sh" http://127.0.0.1:4318 >$work/send.log
space-agent contact open svalbard --for 1m >/dev/null
until_true "the trace arrives" grep -q "$(sed -n 's/^trace //p' $work/send.log)" /var/lib/perigee/ground/logs.jsonl
ground-station satellites | grep -q sat-1 || fail "ground-station satellites does not know sat-1"
is /var/lib/perigee/agent 700 perigee:perigee
ok "started by systemd, with all that the units forbid: a trace came through a contact"

# main_of PROGRAM: its process; another one than BEFORE when that is given.
main_of() { systemctl show -P MainPID "$1"; }
is_another() { [ "$(main_of "$1")" != 0 ] && [ "$(main_of "$1")" != "$2" ]; }
before=$(main_of space-agent)
kill -KILL "$before"
until_true "space-agent is started again" is_another space-agent "$before"
until_true "space-agent answers again" space-agent status
ok "killed: systemd has started it again"

before=$(main_of ground-station)
dpkg -i "$dist"/*.deb >$work/again.log 2>&1 || fail "dpkg -i again: $(cat $work/again.log)"
grep -q 127.0.0.1:4433 /etc/perigee/agent.yaml || fail "installing again has overwritten agent.yaml"
is /etc/perigee/agent.yaml 640 root:perigee
until_true "ground-station is restarted" is_another ground-station "$before"
ok "installed again: restarted, and the settings are as they were"

systemctl stop space-agent ground-station
for program in "${programs[@]}"; do
    [ "$(systemctl show -P Result "$program")" = success ] || fail "$program did not end in order"
done
echo "nonsense: true" >>/etc/perigee/agent.yaml
systemctl start space-agent || true
until_true "a wrong configuration is given up" systemctl is-failed space-agent
[ "$(systemctl show -P ExecMainStatus space-agent)" = 64 ] || fail "a wrong configuration ends with another code than 64"
sed -i '$d' /etc/perigee/agent.yaml
systemctl reset-failed space-agent
systemctl start space-agent ground-station
ok "stopped in order; with a wrong configuration it stays down"

dpkg -r "${programs[@]}" >$work/remove.log 2>&1 || fail "dpkg -r: $(cat $work/remove.log)"
[ ! -e /usr/bin/space-agent ] && [ ! -e /usr/bin/ground-station ] || fail "a program is still there"
! systemctl is-active --quiet space-agent || fail "removing has not stopped space-agent"
[ -e /etc/perigee/agent.yaml ] && [ -e /etc/perigee/ground.yaml ] || fail "removing has deleted the settings"
ok "removed: the settings stay"

dpkg -P "${programs[@]}" >$work/purge.log 2>&1 || fail "dpkg -P: $(cat $work/purge.log)"
for program in "${programs[@]}"; do
    while read -r file; do
        [ -d "$file" ] || [ ! -e "$file" ] || fail "$file is still there"
    done <"$work/$program.files"
    [ ! -L "/etc/systemd/system/multi-user.target.wants/$program.service" ] || fail "$program.service is still enabled"
    [ ! -e "/etc/systemd/system/$program.service" ] || fail "$program.service is still masked"
done
grep -q '/var/lib/perigee/agent stays' $work/purge.log || fail "purging does not say what stays: $(cat $work/purge.log)"
[ -e /etc/perigee/satellite.key ] && [ -e /var/lib/perigee/agent ] || fail "purging has deleted keys or data"
ok "purged: keys and data stay, and it says so"
echo "$passed passed, 0 failed"
