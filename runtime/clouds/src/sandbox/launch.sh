# First half of starting a sandbox host, on the machine: joins the host's cgroups,
# then leaves the machine's namespaces one after the other. The process that stays
# outside the new pid namespace only waits for the host to end.
#   CGROUPS  directories to join        UNIFIED  the cgroup2 directory where it is the only hierarchy
#   NETNS    file of the namespace      ENTER    the second half
set -eu
for dir in $CGROUPS; do echo 0 >"$dir/cgroup.procs"; done
if [ -n "$UNIFIED" ]; then
    # cgroup2 allows no processes beside groups with controllers: two leaves, one for this
    # process, one for the host's process 1, below what the host sees as its root.
    mkdir -p "$UNIFIED/outside" "$UNIFIED/init"
    exec nsenter --net="$NETNS" unshare --cgroup --mount --propagation private sh -euc \
        'echo 0 >"$UNIFIED/outside/cgroup.procs"; exec unshare --pid --fork --uts --ipc sh -euc "$ENTER"'
fi
exec nsenter --net="$NETNS" unshare --mount --propagation private --pid --fork --uts --ipc --cgroup sh -euc "$ENTER"
