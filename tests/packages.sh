#!/usr/bin/env bash
# Installs the Debian packages of deploy/release.sh, uses both programs, installs over them, removes and purges them. All of it happens
# in a mount and a network namespace, over a copy of this machine's root that is thrown away. There is no systemd as process 1:
# the programs are started as their units say (user, folders, command, no privileges), and systemd-analyze checks the units.
#
#   tests/packages.sh [FOLDER]     the folder with the packages (dist)
#
# It needs root, overlayfs, and Debian's systemd, man-db, curl and iproute2.
set -euo pipefail

fail() {
    echo "packages: failed: $*" >&2
    exit 1
}

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || fail "needs root"
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    dist=$(realpath "${1:-$root/dist}")
    exec unshare --mount --net --pid --fork --kill-child --propagation private "$root/tests/packages.sh" inside "$root" "$dist"
fi

root=$2 dist=$3
if [ -z "${PACKAGES_CHROOT:-}" ]; then
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || fail "no overlayfs"
    mkdir -p /mnt/root/mnt/dist
    cp "$dist"/*.deb "$root/deploy/config/local/send.sh" "$root/tests/packages.sh" /mnt/root/mnt/dist/
    mount -t proc proc /mnt/root/proc
    mount --rbind /dev /mnt/root/dev
    mount -t tmpfs tmpfs /mnt/root/run
    mount -t tmpfs tmpfs /mnt/root/tmp
    ip link set lo up
    PACKAGES_CHROOT=1 chroot /mnt/root bash /mnt/dist/packages.sh inside - /mnt/dist
    exit
fi

cd /
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
        [ $SECONDS -lt $deadline ] || fail "$what: not so after 60 s: $(tail -n 3 /tmp/*.log)"
        sleep 0.1
    done
}
# of_unit PROGRAM KEY: what its unit says.
of_unit() { sed -n "s/^$2=//p" "/usr/lib/systemd/system/$1.service"; }

! id perigee 2>/dev/null || fail "this machine has a user perigee already"
dpkg -i "$dist"/*.deb >/tmp/install.log 2>&1 || fail "dpkg -i: $(cat /tmp/install.log)"
for program in "${programs[@]}"; do
    [ "$(dpkg-query -W -f '${Status}' "$program")" = "install ok installed" ] || fail "$program is not installed"
    dpkg -L "$program" >"/tmp/$program.files"
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
ground-station pki init --dir /root/pki --domain example.org >/dev/null
ground-station pki issue satellite sat-1 --dir /root/pki >/dev/null
ground-station pki issue station svalbard --dir /root/pki >/dev/null
for file in satellite-sat-1:satellite station-svalbard:station; do
    for end in crt key; do install -m 0600 "/root/pki/${file%:*}.$end" "/etc/perigee/${file#*:}.$end"; done
done
install -m 0644 /root/pki/satellite-ca.crt /root/pki/station-ca.crt /etc/perigee/
systemd-tmpfiles --create space-agent.conf ground-station.conf 2>/dev/null
is /etc/perigee/satellite.key 640 root:perigee
is /etc/perigee/station-ca.crt 644 root:perigee
sed -i 's/198\.51\.100\.7:4433/127.0.0.1:4433/; s/source: probe.*/source: manual/' /etc/perigee/agent.yaml
sed -i -e '/otlp_grpc\/jaeger: /d; /otlp_http\/prometheus: /d' -e 's/\[otlp_[a-z/]*\]/[file\/logs]/' /etc/perigee/ground.yaml

# start PROGRAM: as its unit says.
start() {
    local program=$1 user state run
    user=$(of_unit "$program" User) state=/var/lib/$(of_unit "$program" StateDirectory) run=/run/$(of_unit "$program" RuntimeDirectory)
    install -d -m 755 -o "$user" -g "$user" "${state%/*}"
    install -d -m "$(of_unit "$program" StateDirectoryMode)" -o "$user" -g "$user" "$state"
    install -d -m "$(of_unit "$program" RuntimeDirectoryMode)" -o "$user" -g "$user" "$run"
    local as=(env -i "PATH=$PATH" setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --bounding-set -all)
    "${as[@]}" "$program" validate || fail "$program validate"
    # shellcheck disable=SC2046
    "${as[@]}" $(of_unit "$program" ExecStart) >"/tmp/$program.log" 2>&1 &
    declare -g "pid_${program%%-*}=$!"
}
start ground-station
start space-agent
until_true "space-agent answers" space-agent status
until_true "ground-station answers" curl -sf http://127.0.0.1:13134/
sh "$dist/send.sh" http://127.0.0.1:4318 >/tmp/send.log
space-agent contact open svalbard --for 1m >/dev/null
until_true "the trace arrives" grep -q "$(sed -n 's/^trace //p' /tmp/send.log)" /var/lib/perigee/ground/logs.jsonl
is /var/lib/perigee/agent 700 perigee:perigee
ground-station satellites | grep -q sat-1 || fail "ground-station satellites does not know sat-1"
ok "started as the units say, a trace came through a contact"

# shellcheck disable=SC2154
kill "$pid_space" "$pid_ground"
wait "$pid_space" || fail "space-agent ended with $?"
wait "$pid_ground" || fail "ground-station ended with $?"
dpkg -i "$dist"/*.deb >/tmp/again.log 2>&1 || fail "dpkg -i again: $(cat /tmp/again.log)"
grep -q 127.0.0.1:4433 /etc/perigee/agent.yaml || fail "installing again has overwritten agent.yaml"
is /etc/perigee/agent.yaml 640 root:perigee
ok "stopped in order, installed again: the settings are as they were"

dpkg -r "${programs[@]}" >/tmp/remove.log 2>&1 || fail "dpkg -r: $(cat /tmp/remove.log)"
[ ! -e /usr/bin/space-agent ] && [ ! -e /usr/bin/ground-station ] || fail "a program is still there"
[ -e /etc/perigee/agent.yaml ] && [ -e /etc/perigee/ground.yaml ] || fail "removing has deleted the settings"
ok "removed: the settings stay"

dpkg -P "${programs[@]}" >/tmp/purge.log 2>&1 || fail "dpkg -P: $(cat /tmp/purge.log)"
for program in "${programs[@]}"; do
    while read -r file; do
        [ -d "$file" ] || [ ! -e "$file" ] || fail "$file is still there"
    done <"/tmp/$program.files"
    [ ! -e "/etc/systemd/system/$program.service" ] || fail "$program.service is still masked"
done
grep -q '/var/lib/perigee/agent stays' /tmp/purge.log || fail "purging does not say what stays: $(cat /tmp/purge.log)"
[ -e /etc/perigee/satellite.key ] && [ -e /var/lib/perigee/agent ] || fail "purging has deleted keys or data"
ok "purged: keys and data stay, and it says so"
echo "$passed passed, 0 failed"
