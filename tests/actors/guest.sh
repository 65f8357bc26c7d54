# shellcheck shell=dash
# Notices when the memory of a machine and its volumes do not belong together: as agent.py, as far as busybox goes. It has neither a
# lock nor a mapping.
home=/home/agent db=/srv/db

fail() {
    echo "$1" >$home/wrong
    exit 17
}

same() { [ "$2" = "$number" ] || fail "$1 says $2, not $number"; }

# Always as long, so that it is rewritten in place.
print() { printf '%12d\n' "$number"; }

# --- what was left

cd $home || exit 18
exec 3>>log
number=$(wc -l <log)
if read -r found <$db/state; then
    [ "$found" = "$number" ] || [ "$found" = $((number - 1)) ] ||
        fail "the state was left at $found, with $number in the log"
fi
print 1<>$db/state
exec 4<>$db/state
print 1<>hidden
exec 5<>hidden
[ "$UNLINK" = no ] || rm hidden

# --- the work

while :; do
    same 'the log' "$(wc -l <log)"
    read -r found <$db/state
    same 'the state' "$found"
    read -r found <"/proc/$$/fd/4"
    same 'the open state' "$found"
    read -r found <"/proc/$$/fd/5"
    same 'the hidden file' "$found"
    number=$((number + 1))
    echo "$number" >&3
    print 1<>$db/state
    print 1<>"/proc/$$/fd/5"
    if [ ! -d /www ]; then
        # It is ready from its first number on.
        mkdir /www
        : >/www/readyz
        httpd -p 8080 -h /www
    fi
    # What is made and removed all the time must not be in the way of a save.
    : >scratch
    rm scratch
    usleep 20000
done
