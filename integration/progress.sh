# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Long steps that say how far they are.  Sourced.

# progress LABEL LOG PATTERN TOTAL COMMAND…: runs COMMAND with its output
# appended to LOG; says on stderr how many lines of it match PATTERN, of TOTAL
# (0: unknown), and the time.  Returns COMMAND's status.
progress()
{
    local label=$1 log=$2 pattern=$3 total=$4 every=20 end='\n'
    local start=$SECONDS last=0 from count pid
    shift 4

    touch "$log"
    from=$(($(wc -l < "$log") + 1))
    "$@" >> "$log" 2>&1 < /dev/null &
    pid=$!
    if [ -t 2 ]; then
        every=1 end='\r'
    fi
    while kill -0 $pid 2>/dev/null; do
        if [ $((SECONDS - start)) -ge $((last + every)) ]; then
            last=$((SECONDS - start))
            count=$(tail -n "+$from" "$log" | grep -cE -- "$pattern" || true)
            if [ "$total" -gt 0 ]; then
                [ "$count" -le "$total" ] || count=$total
                count="$count of $total"
            fi
            printf "      %s: %s, %d:%02d$end" "$label" "$count" \
                $((last / 60)) $((last % 60)) >&2
        fi
        sleep 0.5
    done
    if [ -t 2 ] && [ $last -gt 0 ]; then
        echo >&2
    fi
    wait $pid
}
