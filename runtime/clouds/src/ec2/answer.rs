//! EC2's answers as types: of each, what is used.

use serde::Deserialize;
use std::net::IpAddr;

/// `<xSet><item>…</item></xSet>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Set<T> {
    /// The items.
    #[serde(default = "Vec::new")]
    pub item: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { item: vec![] }
    }
}

macro_rules! answer {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs, reason = "the fields are EC2's own")]
        pub struct $name { $(pub $field: $type,)* }
    };
}

answer!(/// A tag.
    Tag { key: String, value: String, });
answer!(/// A state with its name.
    Named { name: String, });
answer!(/// A machine.
Instance {
    instance_id: String,
    instance_state: Named,
    instance_type: String,
    client_token: String,
    launch_time: String,
    private_ip_address: Option<IpAddr>,
    ip_address: Option<IpAddr>,
    tag_set: Set<Tag>,
});
answer!(/// Machines that were ordered together; also the answer of `RunInstances`.
    Reservation { instances_set: Set<Instance>, });
answer!(/// `DescribeInstances`.
    Reservations { reservation_set: Set<Reservation>, next_token: Option<String>, });
answer!(/// `TerminateInstances`, `StartInstances`.
    Changes { instances_set: Set<Change>, });
answer!(/// A change of state.
    Change { instance_id: String, current_state: Named, });
answer!(/// `AllocateAddress`, and an item of `DescribeAddresses`.
Address {
    allocation_id: String,
    association_id: Option<String>,
    instance_id: Option<String>,
    public_ip: Option<IpAddr>,
    tag_set: Set<Tag>,
});
answer!(/// `DescribeAddresses`.
    Addresses { addresses_set: Set<Address>, });
answer!(/// `DescribeSecurityGroups`.
    Groups { security_group_info: Set<Group>, });
answer!(/// A security group; also the answer of `CreateSecurityGroup`.
    Group { group_id: String, vpc_id: String, ip_permissions: Set<Permission>, tag_set: Set<Tag>, });
answer!(/// What a security group lets in.
Permission {
    ip_protocol: String,
    from_port: Option<i32>,
    to_port: Option<i32>,
    groups: Set<Pair>,
    ip_ranges: Set<Range>,
});
answer!(/// A group that is let in.
    Pair { group_id: String, });
answer!(/// A network that is let in.
    Range { cidr_ip: String, });
answer!(/// `DescribeSubnets`.
    Subnets { subnet_set: Set<Subnet>, });
answer!(/// A subnet.
    Subnet { subnet_id: String, vpc_id: String, availability_zone: String, });
answer!(/// `DescribeImages`.
    Images { images_set: Set<Image>, });
answer!(/// A machine image.
Image {
    image_id: String,
    creation_date: String,
    architecture: String,
    root_device_name: Option<String>,
});
answer!(/// `DescribeKeyPairs`.
    KeyPairs { key_set: Set<KeyPair>, });
answer!(/// A key pair.
    KeyPair { key_name: String, tag_set: Set<Tag>, });
answer!(/// `DescribeInstanceTypes`.
    Types { instance_type_set: Set<Type>, next_token: Option<String>, });
answer!(/// An instance type.
Type {
    instance_type: String,
    bare_metal: bool,
    v_cpu_info: Vcpus,
    memory_info: Memory,
    processor_info: Processor,
    network_info: Network,
});
answer!(/// Memory.
    Memory { size_in_mi_b: u64, });
answer!(/// What it is made of.
    Processor { supported_architectures: Set<String>, });
answer!(/// The network, in words such as `Up to 12.5 Gigabit`.
    Network { network_performance: String, });
answer!(/// `DescribeInstanceTypeOfferings`.
    Offerings { instance_type_offering_set: Set<Offering>, next_token: Option<String>, });
answer!(/// A type that a zone has.
    Offering { instance_type: String, });
answer!(/// `DescribeSpotPriceHistory`.
    SpotPrices { spot_price_history_set: Set<SpotPrice>, next_token: Option<String>, });
answer!(/// A price on the spot market.
    SpotPrice { instance_type: String, availability_zone: String, spot_price: String, timestamp: String, });
answer!(/// An answer of which only its coming matters.
    Done {});

/// Virtual processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Vcpus {
    /// As ordered without options.
    #[serde(rename = "defaultVCpus")]
    pub default: u64,
}

/// The value of the tag `key`.
pub fn tag<'a>(tags: &'a Set<Tag>, key: &str) -> Option<&'a str> {
    tags.item
        .iter()
        .find(|t| t.key == key)
        .map(|t| t.value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_more_than_we_know_and_less_than_we_ask_is_understood() {
        let text = r#"<?xml version="1.0"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>x</requestId>
  <reservationSet>
    <item><reservationId>r-1</reservationId><groupSet/>
      <instancesSet><item>
        <instanceId>i-1</instanceId><instanceState><code>16</code><name>running</name></instanceState>
        <ipAddress>198.18.0.9</ipAddress><tagSet><item><key>Name</key><value>a</value></item></tagSet>
      </item></instancesSet>
    </item>
    <item><instancesSet/></item>
  </reservationSet><nextToken>more</nextToken>
</DescribeInstancesResponse>"#;
        let answer: Reservations = quick_xml::de::from_str(text).unwrap();
        let instance = &answer.reservation_set.item[0].instances_set.item[0];
        assert_eq!(instance.instance_state.name, "running");
        assert_eq!(tag(&instance.tag_set, "Name"), Some("a"));
        assert_eq!(instance.private_ip_address, None);
        assert_eq!(answer.next_token.as_deref(), Some("more"));
    }
}
