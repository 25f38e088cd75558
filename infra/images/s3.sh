#!/usr/bin/env bash
# One S3 server on one machine: a Ceph monitor, an OSD and the gateway, which keep their data in one folder. The first
# start creates the store; later ones use it. SIGTERM stops the gateway first, then the OSD, so that no write is lost.
#   S3_DATA                                     the folder
#   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY    the keys of the owner, who may also write IAM policies of other users
#   S3_ADDRESS, S3_PORT, S3_GIGABYTES           where it listens, and how much space it may use (0.0.0.0, 9000, 100)
#   S3_MONITOR_PORTS                            the monitor's two ports on loopback ("3300 6789")
set -euo pipefail
data=${S3_DATA:?names the folder of the store}
: "${AWS_ACCESS_KEY_ID:?is the access key to accept}" "${AWS_SECRET_ACCESS_KEY:?is its secret}"
read -r port_v2 port_v1 <<<"${S3_MONITOR_PORTS:-3300 6789}"
listen="${S3_ADDRESS:-0.0.0.0}:${S3_PORT:-9000}"
export CEPH_CONF=$data/ceph.conf
umask 077

say() { printf 's3: %s\n' "$*"; }

write_configuration() {
    cat >"$CEPH_CONF" <<CONF
[global]
fsid = $(cat "$data/fsid")
mon host = [v2:127.0.0.1:$port_v2,v1:127.0.0.1:$port_v1]
mon initial members = a
public addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
osd objectstore = bluestore
bluestore block size = $((${S3_GIGABYTES:-100} * 1024 ** 3))
osd memory target = 939524096
debug rocksdb = 1/5
run dir = $data/run
pid file = $data/run/\$type.pid
admin socket = $data/run/\$name.asok
log to file = false
log to stderr = true
mon cluster log to file = false
mon data = $data/mon
osd data = $data/osd
keyring = $data/keyring
[client.rgw]
rgw data = $data/rgw
rgw frontends = beast endpoint=$listen tcp_nodelay=1
CONF
}

make_monitor() {
    ceph-authtool --create-keyring "$data/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
    ceph-authtool "$data/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
    monmaptool --create --clobber --addv a "[v2:127.0.0.1:$port_v2,v1:127.0.0.1:$port_v1]" \
        --fsid "$(cat "$data/fsid")" "$data/monmap" >/dev/null
    ceph-mon --mkfs -i a --monmap "$data/monmap" --keyring "$data/keyring"
}

make_osd() {
    local identity key
    identity=$(cat /proc/sys/kernel/random/uuid)
    key=$(ceph-authtool --gen-print-key)
    ceph osd new "$identity" -i - <<<"{\"cephx_secret\": \"$key\"}" >/dev/null
    ceph-authtool "$data/keyring" -n osd.0 --add-key "$key" >/dev/null
    ceph auth get-or-create client.rgw mon 'allow rwx' osd 'allow rwx' mgr 'allow rw' >>"$data/keyring"
    ceph-osd -i 0 --mkfs --osd-uuid "$identity"
}

# runs a daemon as a process that this script waits for; if one ends by itself, the server ends
start() { "$@" -f & }

make_owner() {
    local keys=(--uid=owner --access-key="$AWS_ACCESS_KEY_ID" --secret-key="$AWS_SECRET_ACCESS_KEY")
    if radosgw-admin user info --uid=owner >/dev/null 2>&1; then
        radosgw-admin key create --key-type=s3 "${keys[@]}" >/dev/null
    else
        radosgw-admin user create --display-name=owner --caps='user-policy=*' "${keys[@]}" >/dev/null
    fi
}

mkdir -p "$data"/{mon,osd,rgw,run}
if [ ! -e "$data/made" ]; then
    # a first start that was interrupted starts over: the store holds no object yet
    rm -rf "$data"/{mon,osd,rgw}/* "$data/keyring"
    cat /proc/sys/kernel/random/uuid >"$data/fsid"
    write_configuration
    make_monitor
    say "making a store in $data"
else
    write_configuration
fi

start ceph-mon -i a
monitor=$!
[ -e "$data/made" ] || make_osd
start ceph-osd -i 0
osd=$!
touch "$data/made"
make_owner
start radosgw -n client.rgw
gateway=$!

stop() {
    trap - TERM INT
    for process in "$gateway" "$osd" "$monitor"; do
        kill -TERM "$process" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "$process" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
}
trap 'say stopping; stop; exit 0' TERM INT
say "listening on $listen"
wait -n || true
say "a daemon ended by itself: stopping" >&2
stop
exit 1
