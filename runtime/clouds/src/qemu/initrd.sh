#!/bin/busybox sh
# Process 1 of the first moments: loads what the disk needs and goes over to it.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do /bin/busybox insmod "$module"; done
for word in $(/bin/busybox cat /proc/cmdline); do
    if [ "$word" = skysail.probe ]; then
        echo skysail-probe-ok >/dev/console
        /bin/busybox poweroff -f
    fi
done
until [ -b /dev/vda ]; do /bin/busybox usleep 10000; done
/bin/busybox mount -t ext4 /dev/vda /root || { echo "skysail: the disk cannot be mounted" >/dev/console; /bin/busybox poweroff -f; }
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /lib/systemd/systemd
