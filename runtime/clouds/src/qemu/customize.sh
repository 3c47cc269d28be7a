# Makes a host's image of a root filesystem that was just built; run by mmdebstrap with
# the root as $1, in the folder that has `identity.sh`. Identity (name, address, keys) is no
# part of the image: each machine is told its own.
set -eu
install -m 755 -D identity.sh "$1/usr/local/lib/skysail/identity"
cd "$1"
echo '/dev/vda / ext4 defaults,x-systemd.growfs 0 0' >etc/fstab
echo '# No resolver: a host has no way to the internet.' >etc/resolv.conf
printf '127.0.0.1 localhost\n' >etc/hosts
rm -f etc/hostname etc/ssh/ssh_host_*
: >etc/machine-id

cat >etc/systemd/system/skysail-identity.service <<'END'
[Unit]
Description=Name, addresses and keys of this machine
# A state is saved while this waits: everything that is the same on all machines comes before.
After=openvswitch-switch.service systemd-udev-trigger.service systemd-growfs-root.service systemd-tmpfiles-setup.service
Before=network.target network-online.target ssh.service
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
ExecStart=/usr/local/lib/skysail/identity
[Install]
WantedBy=multi-user.target
END
cat >etc/ssh/sshd_config.d/skysail.conf <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
UseDNS no
END
mkdir -p etc/systemd/system/ssh.service.d
cat >etc/systemd/system/ssh.service.d/key.conf <<'END'
[Unit]
After=skysail-identity.service
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c '[ -s /etc/ssh/ssh_host_ed25519_key.pub ] || { rm -f /etc/ssh/ssh_host_ed25519_key; ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/ssh_host_ed25519_key && sync; }'
END

# What a host has no use for, and what would wait for something that is not here.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty@tty1.service serial-getty@ttyS0.service lxc.service lxc-net.service lxc-monitord.service \
    ovs-record-hostname.service systemd-logind.service systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service \
    systemd-firstboot.service systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-pstore.service \
    systemd-update-done.service ldconfig.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
# It looks for a socket to the host that these machines do not have, and says so on the console.
mkdir -p etc/systemd/system-generators
ln -sf /dev/null etc/systemd/system-generators/systemd-ssh-generator
chroot . systemctl --quiet enable skysail-identity.service ssh.service openvswitch-switch.service
