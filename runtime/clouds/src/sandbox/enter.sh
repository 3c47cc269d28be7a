# Second half of starting a sandbox host, as process 1 of its namespaces: builds the
# root that the host sees, moves into it and becomes its init.
#   DIR    the machine's folder (upper, work, root, data)     LOWER     the shared root filesystem
#   NAME   host name                                          HIERARCHIES  `name=options` of each cgroup v1 hierarchy
#   UNIFIED  not empty where cgroup2 is the only hierarchy
[ -z "$UNIFIED" ] || echo 0 >"$UNIFIED/init/cgroup.procs"
hostname "$NAME"
# Volatile: an unmount does not wait until this machine's whole disk is in sync, which under load takes a minute. What
# a power failure may lose so is only the host's own system, which is installed again; containers' data are not on it.
# The kernel marks what was volatile once, lest it is taken for whole after such a failure: that is taken care of.
rm -rf "$DIR/work/work/incompat"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DIR/upper,workdir=$DIR/work,volatile" "$DIR/root"
cd "$DIR/root"
# Containers' layers need a real filesystem: an overlay cannot lie on an overlay.
mkdir -p var/lib/skysail
mount --bind "$DIR/data" var/lib/skysail
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp
mount -t tmpfs -o nosuid,mode=755,size=4m tmpfs dev
mkdir -p dev/pts dev/shm dev/net dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
node() { mknod -m "$2" "dev/$1" c "$3" "$4"; }
node null 666 1 3; node zero 666 1 5; node full 666 1 7; node random 666 1 8
node urandom 666 1 9; node tty 666 5 0; node net/tun 666 10 200; node fuse 666 10 229
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
if [ -n "$UNIFIED" ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    # No cgroup2 beside v1: liblxc 6.0.4 trips over a hierarchy without controllers.
    mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs sys/fs/cgroup
    for hierarchy in $HIERARCHIES; do
        at="sys/fs/cgroup/${hierarchy%%:*}"
        mkdir -p "$at"
        mount -t cgroup -o "${hierarchy#*:}" cgroup "$at"
    done
fi
pivot_root . mnt
cd /
echo ready
exec chroot . /bin/sh -c 'umount -l /mnt; exec /sbin/skysail-init' </dev/null >>/var/log/skysail-init.log 2>&1
