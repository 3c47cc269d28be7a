#!/bin/sh
# Makes this machine who it is, from what the driver wrote into the firmware's
# configuration. A machine that starts from a saved state was saved in the loop below: to
# it, the text changes while it waits.
modprobe -a qemu_fw_cfg virtio_net
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
from=/sys/firmware/qemu_fw_cfg/by_name/opt/skysail/identity/raw
waited=
until grep -q '^skysail-identity$' $from; do
    if [ -z "$waited" ]; then
        # Whatever is done and read now, no machine has to do and read again.
        waited=yes
        modprobe -a openvswitch vxlan loop overlay veth sch_htb ifb
        udevadm settle
        mkdir -p /run/sshd
        ssh-keygen -q -t ed25519 -N '' -f /run/warm && /usr/sbin/sshd -t -h /run/warm
        rm -f /run/warm /run/warm.pub
        echo skysail-awaits-identity >/dev/console
    fi
    sleep 0.1
done
# Without the padding.
grep . $from >/run/skysail-identity
busybox hwclock -u -s
# /proc/sys/kernel/random/boot_id stays that of the state: a mount over it would be the end of
# containers, as the kernel lets a user namespace mount /proc only where all of it can be seen.
mkdir -p -m 700 /root/.ssh
: >/root/.ssh/authorized_keys.new
chmod 600 /root/.ssh/authorized_keys.new
ip address flush dev eth0
while read -r word value; do
    case $word in
    seed) echo "$value" >/dev/urandom ;;
    hostname)
        name=$value
        echo "$name" >/etc/hostname
        hostname "$name"
        ;;
    machine-id)
        umount /etc/machine-id 2>/dev/null
        [ "$(cat /etc/machine-id)" = "$value" ] || echo "$value" >/etc/machine-id
        ;;
    mac) ip link set dev eth0 down address "$value" && ip link set dev eth0 up ;;
    address)
        ip address add "$value" dev eth0
        printf '127.0.0.1 localhost\n%s %s\n' "${value%/*}" "$name" >/etc/hosts
        ;;
    gateway)
        ip route replace default via "$value"
        echo "$value gateway" >>/etc/hosts
        ;;
    key) echo "$value" >>/root/.ssh/authorized_keys.new ;;
    esac
done </run/skysail-identity
mv /root/.ssh/authorized_keys.new /root/.ssh/authorized_keys
# The journal's folder has the name of the machine's id.
[ -z "$waited" ] || systemctl try-restart --no-block systemd-journald.service
