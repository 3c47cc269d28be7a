# The raw and the plain way on one of two hosts: $1 is its number (1 or 2), $2 the other's address.
set -e
other=$((3 - $1))
ip netns add raw
ip link add raw0 type veth peer name eth0 netns raw
ip link add raw1 type veth peer name raw2
ip netns exec raw ethtool -K eth0 tx off tso off gso off gro off >/dev/null
ethtool -K raw2 tx off tso off gso off gro off >/dev/null
ip -n raw addr add "10.201.$1.2/24" dev eth0
ip -n raw link set eth0 up
ip -n raw route add default via "10.201.$1.1"
for device in raw0 raw1 raw2; do ip link set "$device" up; done
ip addr add "10.201.$1.1/24" dev raw2
ip route add "10.201.$other.0/24" via "$2"
echo 1 >/proc/sys/net/ipv4/ip_forward
ovs-vsctl add-br br-raw -- set bridge br-raw datapath_type=netdev -- add-port br-raw raw0 -- add-port br-raw raw1

ip netns add plain
ip link add plain0 mtu 1450 type veth peer name eth0 mtu 1450 netns plain
ip link set plain0 up
ip netns exec plain ethtool -K eth0 tx off tso off gso off gro off >/dev/null
ip -n plain addr add "10.202.0.$1/24" dev eth0
ip -n plain link set eth0 up
ip link add plain1 mtu 1450 type vxlan id 7777 dstport 4789 remote "$2" noudpcsum ttl 64
ethtool -K plain1 gro off >/dev/null
ip link set plain1 up
ovs-vsctl add-br br-plain -- set bridge br-plain datapath_type=netdev -- add-port br-plain plain0 -- add-port br-plain plain1
