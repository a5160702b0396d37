#!/usr/bin/env bash
# A whole shared ledger on this machine, from packages and with the settings beside this script: three servers (etcd, Patroni,
# PostgreSQL), two stations and an exporter. Each has addresses of its own in 127.0.0.0/8, so that all ports are the usual ones.
#
#   fleet.sh tools          fetches etcd and Patroni, which start does too
#   fleet.sh start          starts everything, waits until it answers and shows where it listens
#   fleet.sh status         shows that again, and how the servers stand
#   fleet.sh kill-primary   kills the server that leads, as a loss of power would: etcd, Patroni and PostgreSQL, with SIGKILL
#   fleet.sh start-server NAME   starts a server that was killed
#   fleet.sh pause-primary  stops it in its tracks instead (SIGSTOP): connections stay open, nothing answers
#   fleet.sh resume NAME    lets it go on; it believes that it still leads
#   fleet.sh stop           stops everything; the folder with data and logs stays
#
# DIR         the folder for everything (/tmp/perigee-fleet); the user postgres must be able to reach it
# BIN         the folder with ground-station (target/release of this tree)
# BACKEND     where the exporter sends, as http://host:port of OTLP/gRPC; without it to DIR/received.jsonl
# STATIONS    their names (svalbard kiruna), for nine at most
# CONNECTIONS link.max_connections of each (16): as many satellites as are in view of one at once
# NET         the addresses' first three numbers (127.77.1): two fleets at once need two
# It needs Debian's postgresql-15 and python3-venv, openssl, curl and jq. etcd (Debian) and Patroni (PyPI) are fetched into DIR
# unless FLEET_TOOLS names a folder that has them. No service of the machine is touched.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
dir=${DIR:-/tmp/perigee-fleet}
bin=${BIN:-$root/target/release}
net=${NET:-127.77.1}
tools=${FLEET_TOOLS:-$dir/tools}
servers=(node1 node2 node3)
read -ra stations <<<"${STATIONS:-svalbard kiruna}"
declare -A address=([node1]=$net.1 [node2]=$net.2 [node3]=$net.3 [exporter]=$net.21)
for n in "${!stations[@]}"; do address[${stations[n]}]=$net.$((11 + n)); done

say() { printf 'fleet: %s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 1
}

# PostgreSQL refuses to run as root. The caller's folders may be closed to its user.
as_postgres=()
[ "$(id -u)" != 0 ] || as_postgres=(env -C / HOME=/ setpriv --reuid postgres --regid postgres --clear-groups)

# until_true SECONDS WHAT COMMAND...: asks until the answer is yes; while a fleet starts, as long as what was started runs.
starting=
until_true() {
    local limit=$1 what=$2
    local deadline=$((SECONDS + limit))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "$what: not so after $limit s; the logs are in $dir/log"
        [ -z "$starting" ] || all_run
        sleep 0.2
    done
}

# began PID: when the process began, which tells it from a later one with its number.
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# launch NAME COMMAND...: starts a process apart from this shell, with a log.
launch() {
    local name=$1 pid
    shift
    setsid "$@" </dev/null >>"$dir/log/$name.log" 2>&1 &
    pid=$!
    echo "$pid $(began "$pid")" >"$dir/run/$name"
}

# pid_of NAME: its process, if that still runs.
pid_of() {
    local pid start
    read -r pid start 2>/dev/null <"$dir/run/$1" || return 1
    [ "$(began "$pid")" = "$start" ] && [ -n "$start" ] && echo "$pid"
}

all_run() {
    local name
    for name in "$dir"/run/*; do
        name=${name##*/}
        pid_of "$name" >/dev/null || fail "$name has ended: $(tail -n 1 "$dir/log/$name.log")"
    done
}

end() {
    local pid
    pid=$(pid_of "$1") || return 0
    kill "$pid" 2>/dev/null || true
    until_true 60 "$1 ends" gone "$1"
}
gone() { ! pid_of "$1" >/dev/null; }

# patroni PATH SERVER: what Patroni of a server answers; fails unless the answer is 200.
patroni() {
    curl -sf --max-time 2 --cacert "$dir/pki/ledger-ca.crt" "https://${address[$2]}:8008/$1"
}

# cluster: the servers as one that is up knows them.
cluster() {
    local server
    for server in "${servers[@]}"; do
        patroni cluster "$server" && return
    done
    return 1
}
leader() { cluster | jq -er '.members[] | select(.role == "leader" and .state == "running") | .name'; }
replicated() { [ "$(cluster | jq '[.members[] | select(.role == "quorum_standby" and .state == "streaming")] | length')" -ge "$1" ]; }

# sql DATABASE ARGUMENT...: as superuser, on the server that leads.
sql() {
    local database=$1
    shift
    PGPASSWORD=$(cat "$dir/secret/superuser") psql -X -q -v ON_ERROR_STOP=1 \
        "host=${address[node1]},${address[node2]},${address[node3]} user=postgres dbname=$database connect_timeout=2 \
         target_session_attrs=read-write sslmode=verify-full sslrootcert=$dir/pki/ledger-ca.crt" "$@"
}

get_tools() {
    mkdir -p "$tools"
    if [ ! -x "$tools/etcd/usr/bin/etcd" ]; then
        say "fetching etcd from Debian"
        mkdir -p "$tools/debs"
        download() { (cd "$tools/debs" && apt-get -q download etcd-server >/dev/null 2>&1); }
        download || { apt-get -qq update && download; } ||
            fail "apt-get cannot fetch etcd-server: put etcd into $tools/etcd/usr/bin"
        for package in "$tools"/debs/*.deb; do dpkg -x "$package" "$tools/etcd"; done
    fi
    if [ ! -x "$tools/patroni/bin/patroni" ]; then
        say "fetching Patroni from PyPI"
        # Not the interpreter of whoever calls this: the user postgres must be able to run it.
        /usr/bin/python3 -m venv "$tools/patroni"
        "$tools/patroni/bin/pip" install -q --disable-pip-version-check -r "$here/patroni-requirements.txt"
    fi
    "${as_postgres[@]}" "$tools/patroni/bin/patroni" --version >/dev/null || fail "the user postgres cannot run $tools/patroni/bin/patroni"
}

# certificate NAME ADDRESS: a key, and a certificate of the ledger's authority for both ends of a connection. etcd wants a peer's
# certificate to name where the connection comes from, which is 127.0.0.1 here.
certificate() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$dir/pki/$1.key" 2>/dev/null |
        openssl x509 -req -CA "$dir/pki/ledger-ca.crt" -CAkey "$dir/pki/ledger-ca.key" -days 30 -out "$dir/pki/$1.crt" -extfile \
            <(printf 'subjectAltName=IP:%s,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$2") 2>/dev/null
}

# settings_of SERVER: the files of this folder, with this machine's folders, addresses and passwords.
settings_of() {
    local server=$1 home=$dir/$1 file
    mkdir -p "$home/etc" "$home/state" "$home/run"
    certificate "$server" "${address[$server]}"
    cp "$dir/pki/$server.crt" "$home/etc/node.crt"
    cp "$dir/pki/$server.key" "$home/etc/node.key"
    cp "$dir/pki/ledger-ca.crt" "$home/etc/"
    for file in etcd.env patroni.env patroni.yaml; do
        sed -e "s|/etc/perigee-ledger|$home/etc|; s|/var/lib/perigee-ledger|$home/state|; s|/run/perigee-ledger|$home/run|" \
            -e "/^[A-Z]*_NAME=/s|=.*|=$server|" \
            -e "/_URLS=\|LISTEN=\|CONNECT_ADDRESS=/s|10\.0\.0\.1|${address[$server]}|; s|10\.0\.0\.|$net.|g" \
            -e "s|superuser-password|$(cat "$dir/secret/superuser")|; s|replication-password|$(cat "$dir/secret/replication")|" \
            "$here/$file" >"$home/etc/$file"
    done
    [ "$(id -u)" != 0 ] || chown -R postgres:postgres "$home"
    chmod -R go= "$home"
}

# settings_of_station NAME: station.yaml, or for the exporter a copy of it that listens at its own address.
settings_of_station() {
    local name=$1 home=$dir/$1 to='file/backend: {path: '$dir'/received.jsonl}'
    [ -z "${BACKEND:-}" ] || to="otlp/backend: {endpoint: \"$BACKEND\"}"
    mkdir -p "$home/etc" "$home/state"
    [ "$name" = exporter ] || "$bin/ground-station" pki issue station "$name" --dir "$dir/pki/link" >/dev/null
    sed -e "s|station: svalbard|station: $name|; s|0\.0\.0\.0:4433|${address[$name]}:4433|" \
        -e "s|/etc/perigee/station\.|$dir/pki/link/station-$name.|; s|/etc/perigee/satellite-ca|$dir/pki/link/satellite-ca|" \
        -e "s|/etc/perigee/ledger-ca|$dir/pki/ledger-ca|; s|/etc/perigee/|$home/etc/|" \
        -e "s|/var/lib/perigee/ground|$home/state|; s|/run/perigee/|$home/|" \
        -e "s|10\.0\.0\.|$net.|g; s|endpoint: 127\.0\.0\.1:|endpoint: ${address[$name]}:|" \
        -e "s|otlp/backend: {.*}|$to|; s|\[otlp/backend\]|[${to%%:*}]|; s|^  satellites:|  max_connections: ${CONNECTIONS:-16}\n&|" \
        "$here/station.yaml" >"$home/etc/station.yaml"
    cp "$dir/secret/perigee" "$home/etc/ledger.password"
}

start_server() {
    local server=$1 home=$dir/$1 file
    for file in etcd patroni; do
        gone "$server.$file" || fail "$server runs already"
    done
    # As the units do: the settings of the file as environment, the program as the user postgres.
    launch "$server.etcd" "$here/fleet.sh" exec-as-unit "$home/etc/etcd.env" "$tools/etcd/usr/bin/etcd"
    launch "$server.patroni" "$here/fleet.sh" exec-as-unit "$home/etc/patroni.env" "$tools/patroni/bin/patroni" "$home/etc/patroni.yaml"
}

start_station() {
    local name=$1 role=link,api
    [ "$name" != exporter ] || role=export,api
    launch "$name" "$bin/ground-station" run --role "$role" --config "$dir/$name/etc/station.yaml"
}

start() {
    [ ! -e "$dir/run" ] || fail "$dir has a fleet: stop it, and remove the folder to begin anew"
    for program in psql openssl curl jq setsid setpriv; do
        command -v "$program" >/dev/null || fail "$program is missing"
    done
    [ -x /usr/lib/postgresql/15/bin/postgres ] || fail "PostgreSQL 15 is missing: apt-get install postgresql-15"
    [ -x "$bin/ground-station" ] || fail "$bin/ground-station is missing: build it, or name its folder with BIN"
    # A fleet that starts in part is of no use.
    trap 'starting=; stop || true' EXIT
    starting=1
    mkdir -p "$dir"/{log,run,secret,pki}
    chmod 755 "$dir"
    chmod 700 "$dir/secret"
    get_tools
    for secret in superuser replication perigee; do openssl rand -hex 16 >"$dir/secret/$secret"; done
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=perigee ledger" \
        -keyout "$dir/pki/ledger-ca.key" -out "$dir/pki/ledger-ca.crt" 2>/dev/null
    "$bin/ground-station" pki init --dir "$dir/pki/link" --domain example.org >/dev/null

    say "starting etcd, Patroni and PostgreSQL"
    for server in "${servers[@]}"; do settings_of "$server"; done
    for server in "${servers[@]}"; do start_server "$server"; done
    until_true 90 "a server leads" leader
    until_true 90 "two standbys have what the primary has" replicated 2
    sql postgres -f "$here/role.sql"
    sql postgres -c "alter role perigee password '$(cat "$dir/secret/perigee")'"

    say "starting the stations and the exporter"
    for name in "${stations[@]}" exporter; do settings_of_station "$name"; done
    # The first one makes the tables.
    for name in "${stations[@]}" exporter; do
        start_station "$name"
        until_true 30 "$name answers" healthy "$name"
    done
    sql perigee -f "$here/tuning.sql"
    trap - EXIT
    status
}
healthy() { curl -sf --max-time 2 "http://${address[$1]}:13134/"; }

status() {
    local name state link
    [ -e "$dir/run" ] || fail "$dir has no fleet"
    cluster | jq -r '.members[] | "\(.name)  \(.host):\(.port)  \(.role), \(.state), timeline \(.timeline // "-"), lag \(.lag // 0)"' ||
        echo "no server answers"
    for name in "${stations[@]}" exporter; do
        state="does not run"
        gone "$name" || state=$(curl -s --max-time 2 "http://${address[$name]}:13134/" || echo "does not answer")
        link="${address[$name]}:4433 (UDP)"
        [ "$name" != exporter ] || link=-
        printf '%s  link %s  api http://%s:8890  metrics http://%s:8889  %s\n' \
            "$name" "$link" "${address[$name]}" "${address[$name]}" "$state"
    done
    echo "files  $dir: SERVER/etc, log, pki; delivered items in ${BACKEND:-$dir/received.jsonl}"
}

# postgres_of SERVER: the processes of its PostgreSQL, the first one before the others.
postgres_of() {
    local first
    first=$(head -1 "$dir/$1/state/postgresql/postmaster.pid" 2>/dev/null) || return 0
    echo "$first"
    cat "/proc/$first/task/$first/children" 2>/dev/null || true
}

# processes_of SERVER: all of them.
processes_of() {
    pid_of "$1.patroni" || true
    pid_of "$1.etcd" || true
    postgres_of "$1"
}

# signal SIGNAL SERVER: some of PostgreSQL's processes may end by themselves meanwhile.
signal() {
    # shellcheck disable=SC2046
    kill -s "$1" $(processes_of "$2") 2>/dev/null || true
}

kill_primary() {
    local server
    server=$(leader) || fail "no server leads"
    signal KILL "$server"
    until_true 10 "$server is dead" gone "$server.patroni"
    echo "$server"
}

pause_primary() {
    local server
    server=$(leader) || fail "no server leads"
    signal STOP "$server"
    echo "$server"
}

stop() {
    [ -e "$dir/run" ] || fail "$dir has no fleet"
    local name
    # A server that is paused could not end.
    for name in "${servers[@]}"; do signal CONT "$name"; done
    for name in exporter "${stations[@]}"; do end "$name"; done
    # The primary last: a standby that sees it go would take over.
    local last
    last=$(leader) || last=
    for name in "${servers[@]}"; do [ "$name" = "$last" ] || end "$name.patroni"; done
    [ -z "$last" ] || end "$last.patroni"
    for name in "${servers[@]}"; do end "$name.etcd"; done
    rm -r "$dir/run"
}

case ${1:-} in
start | status | stop) "$1" ;;
tools) get_tools ;;
kill-primary) kill_primary ;;
pause-primary) pause_primary ;;
resume) signal CONT "${2:?which server}" ;;
start-server) start_server "${2:?which server}" ;;
exec-as-unit)
    set -a
    # shellcheck disable=SC1090
    . "$2"
    set +a
    shift 2
    exec "${as_postgres[@]}" "$@"
    ;;
*) sed -n '/^#!/d; /^#/!q; s/^# \{0,1\}//p' "$0" && exit 64 ;;
esac
