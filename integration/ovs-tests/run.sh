#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [OPTION...] [AUTOTEST-ARGUMENT...]
#
# Runs OVS's own system tests, unmodified, against datapath_type=bpf, and
# writes build/ovs-tests.tsv.  Ends with the plain count.  Arguments of
# autotest choose tests and more: 1 2 5, 30-39, -k conntrack, -v, -x, -l.
#
#   --ovs-src=3.1|3.5|4.0|DIR  OVS version (default OVS_VERSION, or 3.1) or its
#                              source tree
#   --ovs-build=DIR            shared-library build of it, made already
#   --plugin=FILE              libdpif_bpf.so for it, made already
#   --suite=bpf|kmod|userspace the datapath under test: ours (default), the
#                              kernel module's, or OVS's in user space
#   --guest=6.1|6.12           run in a guest with that kernel of Debian's
#   --wall-clock               let the guest's clock follow the host's: twice
#                              as fast, but what times out may be the host
#   --output=FILE              table of results, in place of ovs-tests.tsv
#   --record                   keep the results for docs/ovs-tests.rst, and
#                              for --ci which tests pass
#   --jobs=N                   deal the tests out to N suites, which run at
#                              once, each in namespaces of its own
#   --limit=SECONDS            of the whole run (default 14400)
#   --ci                       the tests that are known to pass, a job for
#                              each CPU, within 25 minutes; fails when one of
#                              them does not, not even when run once more
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
. "$here/../debian.sh"

usage()
{
    sed -n '/^# run.sh/,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

suite=bpf source=${OVS_VERSION:-3.1} build='' plugin='' limit='' ci=''
guest='' clock=(-i 1) record='' jobs=1
output=$top/build/ovs-tests.tsv arguments=()
for word; do
    case $word in
    --ovs-src=*) source=${word#*=} ;;
    --ovs-build=*) build=$(cd "${word#*=}" && pwd) ;;
    --plugin=*) plugin=$(realpath "${word#*=}") ;;
    --suite=bpf | --suite=kmod | --suite=userspace) suite=${word#*=} ;;
    --guest=*) guest=${word#*=} ;;
    --wall-clock) clock=() ;;
    --output=*) output=$(realpath -m "${word#*=}") ;;
    --limit=*) limit=${word#*=} ;;
    --record) record=yes ;;
    --jobs=*) jobs=${word#*=} ;;
    --ci) ci=yes jobs=$(nproc) ;;
    --help | --suite=*) usage ;;
    *) arguments+=("$word") ;;
    esac
done

# Names of the work directory and of the tables: 3.1, or the tree's own name.
version=$(basename "$source")
expected=$here/expected-pass-$version.tsv
work=$top/build/ovs-tests/$version

# ---------------------------------------------------------------------------
# What the tests want.

install_tools()
{
    debian_install autom4te:autoconf unshare:util-linux ip:iproute2 \
        ping:iputils-ping netstat:net-tools sysctl:procps modprobe:kmod \
        tcpdump:tcpdump nc:netcat-openbsd wget:wget curl:curl lftp:lftp \
        ethtool:ethtool iptables:iptables nft:nftables \
        conntrack:conntrack nfct:nfct \
        /usr/lib/python3/dist-packages/pyftpdlib:python3-pyftpdlib
    # The TFTP server of OVS's test-l7.py is not in Debian.
    if [ ! -d "$work/../python/tftpy" ]; then
        "$top/build/venv/bin/pip" install -q --target "$work/../python" tftpy
    fi
}

build_ovs()
{
    if [ -z "$build" ]; then
        build=$("$here/../build-ovs.sh" --print-build "$source")
    fi
    if [ "$suite" = bpf ] && [ -z "$plugin" ]; then
        plugin=$("$here/../build-ovs.sh" --print-plugin "$source")
    fi
    # The source tree of a build, as its configure was called.
    source=$(sed -n "s/^abs_top_srcdir='\(.*\)'/\1/p" "$build/tests/atconfig")
    source=$(cd "$source" && pwd)
}

# ---------------------------------------------------------------------------
# The test directory: suite, configuration, programs.

# make_programs: $work/bin, the only directory that the suite puts before
# PATH.  The programs of a libtool build are taken without libtool's wrapper
# scripts, which cost a shell and a dozen commands for each call, and the
# plugin is loaded into the two programs that open datapaths.
make_programs()
{
    local dir file name real

    rm -rf "${work:?}/bin"
    mkdir -p "$work/bin"
    for dir in utilities vswitchd ovsdb vtep tests ipsec; do
        for file in "$build/$dir"/* "$build/$dir"/.libs/*; do
            name=$(basename "$file")
            case $name in
            lib* | *.so* | *.o | *.la | *.lai | lt-*) continue ;;
            esac
            if [ -f "$file" ] && [ -x "$file" ]; then
                ln -sf "$file" "$work/bin/$name"
            fi
        done
    done

    [ "$suite" = bpf ] || return 0
    for name in ovs-vswitchd ovs-dpctl; do
        real=$(readlink "$work/bin/$name")
        rm "$work/bin/$name"
        sed -e "s|@REAL@|$real|" -e "s|@PLUGIN@|$plugin|" \
            "$here/$name.in" > "$work/bin/$name"
        chmod +x "$work/bin/$name"
    done
    sed -e "s|@TOP@|$top|" "$here/ovs-bpfd.in" > "$work/bin/ovs-bpfd"
    chmod +x "$work/bin/ovs-bpfd"
}

# make_suite: $work/tests/system-$suite-testsuite and its configuration, apart
# from OVS's tree, which is read only.
make_suite()
{
    local from=$source/tests script=$work/tests/system-$suite-testsuite

    if [ "$suite" = bpf ]; then
        from=$here
    fi
    mkdir -p "$work/tests"
    if [ ! -f "$script" ] || [ -n "$(find "$from" "$source/tests" \
            -name '*.at' -newer "$script" -print -quit)" ]; then
        (cd "$work/tests" &&
         autom4te --language=autotest -I "$source" -I "$here" \
            -o "$script" "$from/system-$suite-testsuite.at")
    fi
    cp "$build/tests/atlocal" "$work/tests/atlocal"
    cat > "$work/tests/atconfig" <<END
at_testdir='tests'
abs_builddir='$build/tests'
at_srcdir='$source/tests'
abs_srcdir='$source/tests'
at_top_srcdir='$source'
abs_top_srcdir='$source'
at_top_build_prefix='$build/'
abs_top_builddir='$build'
at_top_builddir='$build/'
EXEEXT=''
AUTOTEST_PATH='$work/bin'
SHELL=\${CONFIG_SHELL-/bin/bash}
END
}

# ---------------------------------------------------------------------------

results()
{
    python3 "$here/results.py" "$@"
}

# run_suite TESTS OUTPUT ARGUMENT...: in the directory TESTS, here, or in the
# guest when run.sh was started there.  There the suite's log is on the host's
# side from the beginning.
run_suite()
{
    local script=system-$suite-testsuite status=0 libs tests=$1 output=$2

    shift 2
    rm -rf "$tests/$script.dir" "$tests/$script.log"
    if [ -n "${OVS_TESTS_PREPARED-}" ]; then
        ln -s "/mnt/share/$script.log" "$tests/$script.log"
        # The provider's files come into the guest once, before a test waits.
        if [ "$suite" = bpf ]; then
            "$work/bin/ovs-bpfd" --version
        fi
    fi
    libs=$build/lib/.libs:$build/ofproto/.libs:$build/ovsdb/.libs
    OVS_TESTS_DIR=$tests \
    LD_LIBRARY_PATH=$libs:$build/vtep/.libs \
    PYTHONPATH=$work/../python \
    timeout --signal=INT --kill-after=60 "${limit:-14400}" \
        "$here/private.sh" bash "./$script" --color=never "$@" |
        tee "$tests/$script.out" || status=$?
    case " $* " in
    *" -l "* | *" --list "*) exit "$status" ;;
    esac
    if [ -n "${OVS_TESTS_PREPARED-}" ]; then
        find "$tests/$script.dir" -type s -delete
        cp -r "$tests/$script.dir" /mnt/share/
    fi
    results collect "$tests/$script" "$tests" "$source/tests" "$output"
}

# run_dealt: the tests dealt out to as many suites as there are jobs.
run_dealt()
{
    local job dealt i numbers=() word

    for word in "${arguments[@]}"; do
        case $word in
        *[!0-9-]* | *-*-* | -* | *-)
            echo "run.sh: --jobs takes numbers of tests: $word" >&2
            exit 2 ;;
        *-*) mapfile -t -O ${#numbers[@]} numbers < \
                <(seq "${word%-*}" "${word#*-}") ;;
        *) numbers+=("$word") ;;
        esac
    done
    rm -f "$output"
    for ((job = 0; job < jobs; job++)); do
        dealt=()
        for ((i = job; i < ${#numbers[@]}; i += jobs)); do
            dealt+=("${numbers[i]}")
        done
        [ ${#dealt[@]} -gt 0 ] || continue
        rm -rf "$work/tests$job"
        mkdir "$work/tests$job"
        cp "$work/tests/system-$suite-testsuite" "$work/tests/atlocal" \
            "$work/tests/atconfig" "$work/tests$job"
        run_suite "$work/tests$job" "$output.$job" "${dealt[@]}" &
    done
    wait
    for ((job = 0; job < jobs; job++)); do
        [ ! -f "$output.$job" ] || results merge "$output" "$output.$job"
        rm -f "$output.$job"
    done
}

# run_guest: the same command in the guest, which finds everything made; the
# table back, or what the suite's log has when the guest's time was up.
run_guest()
{
    local share=$work/guest-$guest-$suite script=system-$suite-testsuite
    local status=0

    rm -rf "$share"
    mkdir -p "$share"
    "$here/../guest/guest.sh" -k "$guest" "${clock[@]}" -o "$share" \
        -t "${limit:-14400}" -e OVS_TESTS_PREPARED=yes \
        "$here/run.sh" --suite="$suite" --ovs-src="$version" \
        --ovs-build="$build" ${plugin:+--plugin="$plugin"} \
        --output=/mnt/share/ovs-tests.tsv "${arguments[@]}" || status=$?
    if [ -f "$share/ovs-tests.tsv" ]; then
        cp "$share/ovs-tests.tsv" "$output"
    elif [ -f "$share/$script.log" ]; then
        results collect "$work/tests/$script" "$share" "$source/tests" \
            "$output"
    else
        echo "run.sh: no results, the guest's status is $status" >&2
        exit 1
    fi
}

if [ -n "$ci" ]; then
    limit=${limit:-1500}
    mapfile -t arguments < <(results numbers "$expected")
fi

if [ -z "${OVS_TESTS_PREPARED-}" ]; then
    mkdir -p "$work"
    install_tools
    build_ovs
    make_programs
    make_suite
else
    build_ovs
fi

if [ -n "$guest" ]; then
    run_guest
elif [ "$jobs" -gt 1 ]; then
    run_dealt
else
    run_suite "$work/tests" "$output" "${arguments[@]}"
fi

if [ -n "${OVS_TESTS_PREPARED-}" ]; then
    exit 0
fi
if [ -n "$record" ]; then
    kernel=${guest:-$(uname -r | cut -d. -f1,2)}
    mkdir -p "$here/results/$version"
    results merge "$here/results/$version/$suite-$kernel.tsv" "$output"
    python3 "$here/table.py" "$here/results" "$top/docs/ovs-tests.rst"
    if [ "$suite" = bpf ] && [ -z "$guest" ]; then
        results learn "$expected" "$output"
    fi
fi
if [ -n "$ci" ] && ! results check "$expected" "$output"; then
    # As RECHECK=yes of OVS's own make check: a machine may be busy once.
    echo "run.sh: these once more"
    mapfile -t arguments < <(results missing "$expected" "$output")
    mv "$output" "$output.first"
    run_suite "$work/tests" "$output" "${arguments[@]}"
    results merge "$output.first" "$output"
    mv "$output.first" "$output"
    results check "$expected" "$output"
elif [ -z "$ci" ]; then
    results count "$output"
fi
