# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Starting and stopping ovsdb-server, ovs-bpfd and ovs-vswitchd.  Sourced, with
# OVS_BIN, where run put their programs, and with OVS_RUNDIR, OVS_LOGDIR and
# OVS_DBDIR exported.

PATH=$OVS_BIN:$PATH
holder=$(dirname "${BASH_SOURCE[0]}")/holder.py
# What is made here is for others to write to on no account.
umask go-w

# running DAEMON: its process, if it runs.
running()
{
    /usr/bin/python3 -I "$holder" "$OVS_RUNDIR/$1.pid"
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

# start_bpfd: returns when it serves.  A monitor starts it again after a fault
# of its own.  Both hold the lock, and are of the session that is noted.
start_bpfd()
{
    (
        flock -w 10 9 || {
            echo "ovs-bpfd is being started by its monitor" >&2
            exit 1
        }
        ovs-bpfd --detach --monitor --no-chdir --pidfile -vconsole:off \
            --log-file
    ) 9>> "$OVS_RUNDIR/ovs-bpfd.lock" || return
    ps -o sid= -p "$(running ovs-bpfd)" > "$OVS_RUNDIR/ovs-bpfd.lock"
}

# stop_monitor: that of an ovs-bpfd which does not run at the moment.
stop_monitor()
{
    local lock=$OVS_RUNDIR/ovs-bpfd.lock
    [ -e "$lock" ] || return 0
    flock -w 2 "$lock" true || kill "$(cat "$lock")"
    flock -w 10 "$lock" rm "$lock" "$OVS_RUNDIR"/ovs-bpfd.*.ctl -f
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
    if ! ovs-appctl -T 10 -t "$daemon" "$@" > /dev/null &&
       [ "$(running "$daemon")" = "$pid" ]; then
        kill "$pid"
    fi
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2> /dev/null || return 0
        sleep 0.1
    done
    echo "$daemon (process $pid) does not end" >&2
    return 1
}
