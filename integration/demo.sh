#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# demo.sh: a BPF bridge with two hosts and an internal port, at work.  To be
# run in namespaces of its own (ovs-tests/private.sh); ./run demo does.  Ends
# with status 0 when everything that it shows was found to be so.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d /run/demo.XXXXXX)
export OVS_RUNDIR=/run/openvswitch OVS_LOGDIR=$work/log OVS_DBDIR=$work
. "$top/integration/daemons.sh"

python=$top/build/venv/bin/python
checks=0

say()
{
    printf '\n=== %s\n' "$*"
}

# ovs-dpctl looks for datapaths of all types, and says each time that the
# kernel module, of type "system", is not there.
ovs-dpctl()
{
    command ovs-dpctl "$@" 2> >(
        grep -vE 'kernel module|enumerate system datapaths' >&2)
}

# shown COMMAND…: runs a command as a user would, on view.
shown()
{
    printf '\n$ %s\n' "$*"
    "$@"
}

# check TITLE COMMAND…: it must succeed.
check()
{
    local title=$1 output
    shift
    if output=$("$@" 2>&1); then
        printf '  ok      %s\n' "$title"
        checks=$((checks + 1))
    else
        printf '  FAILED  %s\n$ %s\n%s\n' "$title" "$*" "$output"
        exit 1
    fi
}

finish()
{
    local status=$?
    trap - EXIT
    if [ $status -ne 0 ]; then
        say "The demonstration failed; the ends of the logs:"
        tail -n 25 "$OVS_LOGDIR"/*.log || true
    fi
    for daemon in ovs-vswitchd ovs-bpfd ovsdb-server; do
        stop $daemon exit || true
    done
    stop_monitor || true
    rm -rf "$work"
    exit $status
}
trap finish EXIT

# ping COUNT FROM TO: FROM is a host, or "-" for the machine itself.
ping_from()
{
    local prefix=()
    if [ "$2" != - ]; then
        prefix=(ip netns exec "$2")
    fi
    "${prefix[@]}" ping -q -c "$1" -i 0.02 -W 2 "$3" |
        grep -q " $1 received, 0% packet loss"
}

# neighbour FROM ADDRESS MAC: ARP has found it.
neighbour()
{
    local prefix=()
    if [ "$1" != - ]; then
        prefix=(ip netns exec "$1")
    fi
    "${prefix[@]}" ip neigh show "$2" | grep -q "lladdr $3 "
}

mac_of()
{
    local prefix=()
    if [ "$1" != - ]; then
        prefix=(ip netns exec "$1")
    fi
    "${prefix[@]}" cat "/sys/class/net/$2/address"
}

# lookups FIELD: hit or missed, of ovs-dpctl show.
lookups()
{
    ovs-dpctl show | sed -n "s/.*lookups:.* $1:\([0-9]*\).*/\1/p" | head -n 1
}

# counted PORT: packets that the installed IPv4 flows from a port counted.
counted()
{
    ovs-dpctl -m dump-flows |
        awk -v port="in_port($1)" '
            index($0, port) && /eth_type\(0x0800\)/ {
                match($0, /packets:[0-9]+/)
                sum += substr($0, RSTART + 8, RLENGTH - 8)
            }
            END { print sum + 0 }'
}

say "Starting ovsdb-server, ovs-bpfd and ovs-vswitchd in namespaces of their own"
start_ovsdb
start_bpfd
start_vswitchd
check "three daemons run" running ovs-vswitchd
check "ovs-vswitchd knows the type" sh -c \
    'ovs-vsctl get Open_vSwitch . datapath_types | grep -qw bpf'

say "A bridge, two hosts on veth ports, and an address on the bridge"
shown ovs-vsctl add-br br0 -- set bridge br0 datapath_type=bpf
for i in 1 2; do
    ip netns add h$i
    ip link add p$i type veth peer name eth0 netns h$i
    ip -n h$i link set lo up
    ip -n h$i link set eth0 up
    ip -n h$i address add 10.0.0.$i/24 dev eth0
    ip link set p$i up
    shown ovs-vsctl add-port br0 p$i
done
ip link set br0 up
ip address add 10.0.0.254/24 dev br0
shown ovs-vsctl show

say "Packets: between the hosts, and between each and the bridge's port"
check "ping h1 -> h2" ping_from 5 h1 10.0.0.2
check "ping h2 -> h1" ping_from 5 h2 10.0.0.1
check "ping h1 -> br0" ping_from 5 h1 10.0.0.254
check "ping br0 -> h1" ping_from 5 - 10.0.0.1
check "ping br0 -> h2" ping_from 5 - 10.0.0.2
check "ARP: h1 knows h2" neighbour h1 10.0.0.2 "$(mac_of h2 eth0)"
check "ARP: h2 knows h1" neighbour h2 10.0.0.1 "$(mac_of h1 eth0)"
check "ARP: h1 knows br0" neighbour h1 10.0.0.254 "$(mac_of - br0)"
check "ARP: br0 knows h2" neighbour - 10.0.0.2 "$(mac_of h2 eth0)"
for protocol in tcp udp; do
    for pair in "h1 h2 10.0.0.2" "h2 h1 10.0.0.1" \
                "h1 - 10.0.0.254" "- h2 10.0.0.2"; do
        read -r from to address <<< "$pair"
        check "$protocol ${from/-/br0} <-> ${to/-/br0}: all data came" \
            "$python" "$top/integration/exchange.py" "$protocol" "$from" \
            "$to" "$address"
    done
done

say "The datapath"
shown ovs-dpctl show
shown ovs-dpctl dump-flows -m
shown ovs-appctl dpctl/dump-flows

say "Who forwarded?  200 more pings, by the counters of the flows themselves"
before_hit=$(lookups hit) before_missed=$(lookups missed)
before=$(counted p1) before_back=$(counted p2)
check "200 pings h1 -> h2" ping_from 200 h1 10.0.0.2
hit=$(($(lookups hit) - before_hit))
missed=$(($(lookups missed) - before_missed))
there=$(($(counted p1) - before)) back=$(($(counted p2) - before_back))
echo
echo "  counted by IPv4 flows from p1: $there, from p2: $back"
echo "  look-ups in BPF that found a flow: $hit; misses that went up: $missed"
check "each flow counted 200 packets, but for a first one that went up" \
    test "$there" -ge 199 -a "$back" -ge 199
check "400 packets met a flow in BPF, but for a few first ones" \
    test "$hit" -ge 396 -a "$missed" -le 10

say "The provider is killed, and comes back"
kill -9 "$(running ovs-bpfd)"
check "flows go on forwarding: ping h1 -> h2" ping_from 50 h1 10.0.0.2
start_bpfd
check "it took over: ping h2 -> h1" ping_from 50 h2 10.0.0.1
check "and serves: ping br0 -> h1" ping_from 5 - 10.0.0.1
shown ovs-appctl -t ovs-bpfd dpif-bpf/show

say "Taking it down"
shown ovs-vsctl del-br br0
check "the internal port is gone" sh -c '! ip link show br0'
check "the datapath is gone" sh -c '! ovs-dpctl show bpf@ovs-bpf'
for daemon in ovs-vswitchd ovs-bpfd ovsdb-server; do
    check "$daemon ends" stop $daemon exit
done
check "nothing is pinned" sh -c \
    '! find /sys/fs/bpf/ovs -type f 2> /dev/null | grep .'
# Two things that ovs-vswitchd warns of are none of ours: that the machine is
# slow, and that the kernel module, of type "system", is not there.
check "no warnings in the logs" sh -c \
    "! grep -hE '\\| ?(WARN|ERR|EMER) ?\\|' $OVS_LOGDIR/*.log |
     grep -vE '\|timeval|enumerate system datapaths: No such file'"

printf '\nDone: %d checks, all good.\n' "$checks"
