# Raw lxc-start of the same container, run on a host: prints for each how many microseconds
# passed until it ran and had answered a ping. Variables: count, interval (seconds between
# pings), image (a root filesystem).
# Mounts, bridge and configuration are made before the clock starts: only LXC is measured.
set -eu
base=/var/lib/skysail/raw probe=/run/raw
clear() {
  for i in $(seq "$count"); do
    umount -q "$base/r$i/rootfs" "$base/r$i/layer" "$base/r$i/image" || true
  done
  ip link del raw0 2>/dev/null || true
  for f in subuid subgid; do [ ! -e $probe/$f ] || cp $probe/$f /etc/$f; done
  rm -rf $base $probe
}
trap clear EXIT
mkdir -p $base $probe
for f in subuid subgid; do cp /etc/$f $probe/$f; echo root:3000000:100000000 >/etc/$f; done
ip link add raw0 type bridge
ip addr add 10.99.0.1/16 dev raw0
ip link set raw0 up
# Asked anew each 10 ms until it answers: the wait for a lost ARP request is not the start's.
ip ntable change name arp_cache dev raw0 retrans 10 mcast_probes 3000
for i in $(seq "$count"); do
  d=$base/r$i map=$((3000000 + i * 65536))
  mkdir -p $d/image $d/layer $d/rootfs $d/own/upper $d/own/work
  mount --bind -o X-mount.idmap=b:0:$map:65536 "$image" $d/image
  mount --bind -o X-mount.idmap=b:0:$map:65536 $d/own $d/layer
  mount -t overlay overlay -o lowerdir=$d/image,upperdir=$d/layer/upper,workdir=$d/layer/work $d/rootfs
  cat >$d/config <<C
lxc.uts.name = r$i
lxc.rootfs.path = dir:$d/rootfs
lxc.idmap = u 0 $map 65536
lxc.idmap = g 0 $map 65536
lxc.init.cmd = /bin/busybox init
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.autodev = 1
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.net.0.type = veth
lxc.net.0.link = raw0
lxc.net.0.flags = up
lxc.net.0.ipv4.address = 10.99.1.$i/16
lxc.cap.drop = mac_admin mac_override sys_module sys_rawio sys_time
C
done
for i in $(seq "$count"); do
  (ping -q -i $interval -c 1 -w 60 10.99.1.$i >/dev/null 2>&1 && date +%s%N >$probe/pinged.$i) &
done
begun=$(date +%s%N)
for i in $(seq "$count"); do
  (lxc-start -P $base -n r$i -d && date +%s%N >$probe/running.$i) &
done
wait
for i in $(seq "$count"); do
  last=$(cat $probe/pinged.$i $probe/running.$i | sort -n | tail -n1)
  echo $(((last - begun) / 1000))
done
for i in $(seq "$count"); do lxc-stop -k -P $base -n r$i & done
wait
