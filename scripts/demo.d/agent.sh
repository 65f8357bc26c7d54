#!/bin/sh
# What runs inside the sandboxes: everyday programs in /home/agent, which is a durdir volume.
#
#   agent.sh work    clones a repository, then commits, indexes and keeps a ledger, all at once, until /home/agent/stop appears
#   agent.sh branch  what the second sandbox does on the fork: other commits, other ledger entries, a removed file
set -eu
cd /home/agent

# A writer that nobody stops must stop itself: the demo may have been killed.
deadline=$(($(date +%s) + 60))
go_on() { [ ! -e stop ] && [ "$(date +%s)" -lt "$deadline" ]; }

commit() {
    echo "change $1" >>checkout/NOTES.md
    git -C checkout add --all
    git -C checkout commit --quiet --message "change $1"
}

case $1 in
work)
    git clone --quiet seed/project.git checkout
    python3 tools/ledger.py ledger.db 100000 &
    ledger=$!
    python3 tools/index.py checkout index model.bin 100000 &
    index=$!
    n=0
    while go_on; do
        n=$((n + 1))
        commit "$n"
    done
    wait "$ledger" "$index"
    ;;
branch)
    rm -f stop
    # The snapshot was taken while git ran: as after a crash, a lock may lie there that nobody holds any more.
    find checkout/.git -name '*.lock' -delete
    git -C checkout checkout --quiet -b second-sandbox
    for n in one two three; do
        commit "$n of the second sandbox"
    done
    python3 tools/ledger.py ledger.db 200
    python3 tools/index.py checkout index model.bin 1
    rm letter.txt
    ;;
esac
