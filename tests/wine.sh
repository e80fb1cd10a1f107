# Wine, to test Windows programs; source after deploy/install.sh and deploy/windows.sh.

# Installs Wine and creates its prefix, a drive C: with no programs installed.
prepare_wine() {
    has wine || apt_install wine64 wine
    # shellcheck disable=SC2154 # deploy/windows.sh sets it
    prefix=$cache/bare-$(WINEDEBUG=-all wine --version | cut -d' ' -f1)
    [[ ! -e $prefix ]] || return 0
    headline "making Wine's folder $prefix"
    local made=$prefix
    prefix=$(mktemp -d "$cache/building.XXXXXX")
    under_wine 120 wineboot --init
    under_wine 60 winecfg -v win10
    in_wine timeout 60 wineserver --wait
    # Wine 8.0 lacks a library that every Rust program loads.
    x86_64-w64-mingw32-gcc -O2 -s -shared tests/bcryptprimitives.c -ladvapi32 \
        -o "$prefix/drive_c/windows/system32/bcryptprimitives.dll"
    mv "$prefix" "$made"
    prefix=$made
}

# Runs a command with a time limit in seconds. Wine 8.0 itself hangs now and then: its server spins
# and no program makes progress. The command is then killed and retried, at most twice; a command
# that fails ends the script at once. Its output is also in $cache/wine.log.
under_wine() {
    local seconds=$1 try status
    shift
    headline "under Wine: $*"
    for try in 1 2 3; do
        status=0
        in_wine timeout --kill-after=5 "$seconds" "$@" >"$cache/wine.log" 2>&1 || status=$?
        if ((status == 124 || status == 137)); then
            tail -n 50 "$cache/wine.log"
            headline "no end within $seconds s, try $try of 3"
            in_wine wineserver --kill=9 || true
            continue
        fi
        tail -n 200 "$cache/wine.log"
        ((status == 0)) || fail "exit code $status"
        return 0
    done
    fail "Wine hung three times"
}

# Wine's server outlives the command, so it must not inherit the lock.
in_wine() {
    WINEPREFIX=$prefix WINEDEBUG=-all DISPLAY='' "$@" </dev/null 9>&-
}
