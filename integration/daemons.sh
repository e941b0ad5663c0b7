# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Starting and stopping ovsdb-server, ovs-bpfd and ovs-vswitchd.  Sourced, with
# OVS_BIN, where run put their programs, and with OVS_RUNDIR, OVS_LOGDIR and
# OVS_DBDIR exported.

PATH=$OVS_BIN:$PATH

# running DAEMON: its process, if it runs.
running()
{
    local pid
    pid=$(cat "$OVS_RUNDIR/$1.pid" 2> /dev/null) || return 1
    kill -0 "$pid" 2> /dev/null && echo "$pid"
}

start_ovsdb()
{
    mkdir -p "$OVS_RUNDIR" "$OVS_LOGDIR" "$OVS_DBDIR"
    if [ ! -f "$OVS_DBDIR/conf.db" ]; then
        ovsdb-tool create "$OVS_DBDIR/conf.db"
    fi
    ovsdb-server "$OVS_DBDIR/conf.db" --detach --no-chdir --pidfile \
        -vconsole:off --log-file --remote=punix:"$OVS_RUNDIR/db.sock"
    ovs-vsctl --no-wait init
}

# start_bpfd: returns when it serves.
start_bpfd()
{
    ovs-bpfd --detach --no-chdir --pidfile -vconsole:off --log-file
}

start_vswitchd()
{
    ovs-vswitchd "unix:$OVS_RUNDIR/db.sock" --detach --no-chdir --pidfile \
        -vconsole:off --log-file
}

# stop DAEMON COMMAND…: by unixctl, and waits until it is gone.
stop()
{
    local daemon=$1 pid i
    shift
    pid=$(running "$daemon") || return 0
    ovs-appctl -T 10 -t "$daemon" "$@" > /dev/null || kill "$pid"
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2> /dev/null || return 0
        sleep 0.1
    done
    echo "$daemon (process $pid) does not end" >&2
    return 1
}
