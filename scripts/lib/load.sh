# shellcheck shell=bash
# Everything a script here sources, in order of need.
LIB=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=shell.sh
source "$LIB/shell.sh"
# shellcheck source=packages.sh
source "$LIB/packages.sh"
# shellcheck source=build.sh
source "$LIB/build.sh"
# shellcheck source=microvm.sh
source "$LIB/microvm.sh"
# shellcheck source=mounts.sh
source "$LIB/mounts.sh"
