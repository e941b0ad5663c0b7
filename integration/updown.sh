#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# updown.sh up|down: the three daemons on this machine, where OVS's tools
# expect them.  The database stays in build/up, so that bridges come back.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
export OVS_RUNDIR=/var/run/openvswitch
export OVS_LOGDIR=$top/build/up/log OVS_DBDIR=$top/build/up
. "$top/integration/daemons.sh"

up()
{
    if running ovs-vswitchd > /dev/null && running ovs-bpfd > /dev/null; then
        echo "It is up."
        return
    fi
    if ! running ovsdb-server > /dev/null; then
        if ovs-vsctl --timeout=2 --no-wait show > /dev/null 2>&1; then
            echo "Another Open vSwitch serves $OVS_RUNDIR." >&2
            exit 1
        fi
        start_ovsdb
    fi
    mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
    running ovs-bpfd > /dev/null || start_bpfd
    running ovs-vswitchd > /dev/null || start_vswitchd
    cat <<END
Up.  The tools are in ${OVS_BIN#"$top"/}, logs in build/up/log.  For example:

    PATH=$OVS_BIN:\$PATH
    ovs-vsctl add-br br0 -- set bridge br0 datapath_type=bpf
    ovs-vsctl add-port br0 DEVICE
    ovs-dpctl show
END
}

down()
{
    local status=0
    # Bridges, their devices and what is pinned go; the database stays.
    stop ovs-vswitchd exit --cleanup || status=1
    { stop ovs-bpfd exit && stop_monitor; } || status=1
    stop ovsdb-server exit || status=1
    if [ -d /sys/fs/bpf/ovs ]; then
        find /sys/fs/bpf/ovs -depth -type d -empty -delete
        if [ -d /sys/fs/bpf/ovs ]; then
            echo "left in /sys/fs/bpf/ovs:" >&2
            find /sys/fs/bpf/ovs -maxdepth 2 >&2
            status=1
        fi
    fi
    rmdir "$OVS_RUNDIR" 2> /dev/null || true
    if [ $status -eq 0 ]; then
        echo "Down."
    fi
    exit $status
}

case ${1-} in
up) up ;;
down) down ;;
*) echo "usage: updown.sh up|down" >&2; exit 2 ;;
esac
