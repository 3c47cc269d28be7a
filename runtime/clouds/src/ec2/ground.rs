//! What machines stand on: image, subnet, security group, key pair. Found or made once,
//! looked at again now and then, and removed with the Cloud.

use super::{
    Ec2,
    answer::{Done, Group, Groups, Image, Images, KeyPairs, Permission, Subnets, tag},
    client::Form,
    tags,
};
use crate::{Error, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// How long what was found is taken for granted.
const HOLDS: Duration = Duration::from_secs(600);
/// The Debian project's account.
const DEBIAN: &str = "136693071363";

/// What a launch names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ground {
    /// The machine image.
    pub image: String,
    /// Its root device, whose size is ours to say.
    pub root_device: String,
    /// The security groups.
    pub groups: Vec<String>,
    /// The key pair; none where nobody's key is to be let in.
    pub key_name: Option<String>,
}

/// Who may send what to a machine: protocol, ports, and a network or a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    protocol: &'static str,
    ports: Option<(i32, i32)>,
    from: From,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Net(String),
    Group(String),
}

impl Ec2 {
    /// What machines for these keys stand on, made where it is missing.
    pub(super) async fn ground(&self, keys: &[String]) -> Result<Ground> {
        let mut hasher = DefaultHasher::new();
        (format!("{:?}", self.settings), &self.client.source, keys).hash(&mut hasher);
        let with = hasher.finish();
        let mut known = self.client.memory.ground.lock().await;
        if let Some((found_with, at, ground)) = &*known
            && *found_with == with
            && at.elapsed() < HOLDS
        {
            return Ok(ground.clone());
        }
        let image = self.image().await?;
        let groups = match self.settings.security_groups.as_slice() {
            [] => vec![self.group().await?],
            stated => stated.to_vec(),
        };
        let ground = Ground {
            root_device: image.root_device_name.unwrap_or("/dev/xvda".into()),
            image: image.image_id,
            groups,
            key_name: self.key_pair(keys).await?,
        };
        *known = Some((with, Instant::now(), ground.clone()));
        Ok(ground)
    }

    /// The stated image, else the newest Debian of this processor.
    pub(super) async fn image(&self) -> Result<Image> {
        let form = Form::new("DescribeImages");
        let own = super::offers::architecture();
        let Some(id) = &self.settings.image else {
            let debian = match own {
                "x86_64" => "amd64",
                other => other,
            };
            let form = form
                .list("Owner", [DEBIAN])
                .filter(1, "name", &format!("debian-13-{debian}-*"))
                .filter(2, "architecture", own);
            let images: Images = self.client.call(&form).await?;
            let newest = images
                .images_set
                .item
                .into_iter()
                .max_by(|a, b| a.creation_date.cmp(&b.creation_date));
            return newest.ok_or_else(|| {
                Error::Refused(format!(
                    "Cloud {}: the region has no image of Debian 13; name one in spec.ec2.image",
                    self.client.cloud
                ))
            });
        };
        let images: Images = self.client.call(&form.list("ImageId", [id])).await?;
        let image = images
            .images_set
            .item
            .into_iter()
            .find(|i| i.image_id == *id);
        let image = image.ok_or_else(|| {
            Error::Refused(format!(
                "Cloud {}: spec.ec2.image: there is no image {id} in {}",
                self.client.cloud, self.client.region
            ))
        })?;
        if image.architecture != own && !image.architecture.is_empty() {
            return Err(Error::Refused(format!(
                "Cloud {}: spec.ec2.image: {id} is for {} and this skysail for {own}; name another image",
                self.client.cloud, image.architecture
            )));
        }
        Ok(image)
    }

    fn shown(&self) -> String {
        let uid: String = self.uid.chars().filter(|c| *c != '-').take(8).collect();
        format!("skysail-{}-{uid}", self.client.cloud)
    }

    /// The Cloud's own security group, made if it has none, with exactly our rules.
    async fn group(&self) -> Result<String> {
        let vpc = match &self.settings.subnet {
            None => None,
            Some(subnet) => {
                let form = Form::new("DescribeSubnets").list("SubnetId", [subnet]);
                let subnets: Subnets = self.client.call(&form).await?;
                subnets.subnet_set.item.into_iter().next().map(|s| s.vpc_id)
            }
        };
        let mut groups = self.own_groups().await?;
        groups.retain(|g| vpc.as_ref().is_none_or(|vpc| g.vpc_id == *vpc));
        let group = match groups
            .into_iter()
            .min_by(|a, b| a.group_id.cmp(&b.group_id))
        {
            Some(group) => group,
            None => {
                let form = Form::new("CreateSecurityGroup")
                    .with("GroupName", self.shown())
                    .with(
                        "GroupDescription",
                        format!("Hosts of Skysail's Cloud {}", self.client.cloud),
                    )
                    .maybe("VpcId", vpc)
                    .tags(
                        1,
                        "security-group",
                        &tags::of_cloud(&self.uid, &self.shown()),
                    );
                let made: Group = self.client.call(&form).await?;
                made
            }
        };
        self.open(&group).await?;
        Ok(group.group_id)
    }

    async fn own_groups(&self) -> Result<Vec<Group>> {
        let filter = format!("tag:{}", tags::CLOUD);
        let form = Form::new("DescribeSecurityGroups").filter(1, &filter, &self.uid);
        let groups: Groups = self.client.call(&form).await?;
        let mut groups = groups.security_group_info.item;
        groups.retain(|g| tags::ours(&g.tag_set, &self.uid));
        Ok(groups)
    }

    /// Makes the rules of `group` ours: what is missing first, then what is too much.
    async fn open(&self, group: &Group) -> Result<()> {
        let wanted = rules(
            &self.settings.ssh_from,
            &self.settings.overlay_from,
            &group.group_id,
        );
        let there = present(&group.ip_permissions.item);
        for (action, rules) in [
            ("AuthorizeSecurityGroupIngress", wanted.difference(&there)),
            ("RevokeSecurityGroupIngress", there.difference(&wanted)),
        ] {
            for rule in rules {
                let form = permission(Form::new(action).with("GroupId", &group.group_id), rule);
                match self.client.call::<Done>(&form).await {
                    Err(Error::Refused(said)) if said.contains("InvalidPermission.Duplicate") => {}
                    Err(Error::NotFound(_)) if action.starts_with("Revoke") => {}
                    other => {
                        other?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The first key as a key pair, so that the image's own user can be reached too.
    async fn key_pair(&self, keys: &[String]) -> Result<Option<String>> {
        let Some(key) = keys.first() else {
            return Ok(None);
        };
        let digest = super::sign::hex(&Sha256::digest(key)[..4]);
        let name = format!("{}-{digest}", self.shown());
        let form = Form::new("ImportKeyPair")
            .with("KeyName", &name)
            .with("PublicKeyMaterial", BASE64_STANDARD.encode(key))
            .tags(1, "key-pair", &tags::of_cloud(&self.uid, &name));
        match self.client.call::<Done>(&form).await {
            Err(Error::Refused(said)) if said.contains("InvalidKeyPair.Duplicate") => {}
            other => {
                other?;
            }
        }
        Ok(Some(name))
    }

    /// Removes the security group and the key pairs. Idempotent.
    pub(super) async fn clear_ground(&self) -> Result<()> {
        *self.client.memory.ground.lock().await = None;
        for group in self.own_groups().await? {
            let form = Form::new("DeleteSecurityGroup").with("GroupId", group.group_id);
            gone(self.client.call::<Done>(&form).await)?;
        }
        let pairs: KeyPairs = self.client.call(&Form::new("DescribeKeyPairs")).await?;
        let ours = pairs.key_set.item.into_iter();
        for pair in ours.filter(|p| tag(&p.tag_set, tags::CLOUD) == Some(&self.uid)) {
            let form = Form::new("DeleteKeyPair").with("KeyName", pair.key_name);
            gone(self.client.call::<Done>(&form).await)?;
        }
        Ok(())
    }
}

/// What is gone already is as good as removed.
pub(super) fn gone(result: Result<Done>) -> Result<()> {
    match result {
        Err(Error::NotFound(_)) => Ok(()),
        other => other.map(drop),
    }
}

fn rules(ssh: &[Ipv4Net], overlay: &[Ipv4Net], own: &str) -> BTreeSet<Rule> {
    let net = |protocol, port, net: &Ipv4Net| Rule {
        protocol,
        ports: Some((port, port)),
        from: From::Net(net.trunc().to_string()),
    };
    let within = Rule {
        protocol: "-1",
        ports: None,
        from: From::Group(own.to_owned()),
    };
    let ssh = ssh.iter().map(|n| net("tcp", 22, n));
    let overlay = overlay.iter().map(|n| net("udp", 4789, n));
    ssh.chain(overlay).chain([within]).collect()
}

/// The rules that there are. A protocol that is never ours is shown as one, so that it goes.
fn present(permissions: &[Permission]) -> BTreeSet<Rule> {
    let mut found = BTreeSet::new();
    for permission in permissions {
        let protocol = match permission.ip_protocol.as_str() {
            "tcp" => "tcp",
            "udp" => "udp",
            "icmp" => "icmp",
            _ => "-1",
        };
        let ports = permission.from_port.zip(permission.to_port);
        let ports = ports.filter(|_| protocol != "-1");
        let nets = permission.ip_ranges.item.iter();
        let nets = nets.map(|r| From::Net(r.cidr_ip.clone()));
        let groups = permission.groups.item.iter();
        let groups = groups.map(|g| From::Group(g.group_id.clone()));
        found.extend(nets.chain(groups).map(|from| Rule {
            protocol,
            ports,
            from,
        }));
    }
    found
}

fn permission(form: Form, rule: &Rule) -> Form {
    let form = form.with("IpPermissions.1.IpProtocol", rule.protocol);
    let form = form
        .maybe(
            "IpPermissions.1.FromPort",
            rule.ports.map(|p| p.0.to_string()),
        )
        .maybe(
            "IpPermissions.1.ToPort",
            rule.ports.map(|p| p.1.to_string()),
        );
    match &rule.from {
        From::Net(net) => form.with("IpPermissions.1.IpRanges.1.CidrIp", net),
        From::Group(group) => form.with("IpPermissions.1.Groups.1.GroupId", group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_that_are_there_are_not_made_again_and_foreign_ones_go() {
        let any: Ipv4Net = "0.0.0.0/0".parse().unwrap();
        let wanted = rules(&[any], &[], "sg-1");
        let text = "<r><ipPermissions>
            <item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges></item>
            <item><ipProtocol>-1</ipProtocol><groups><item><groupId>sg-1</groupId></item></groups></item>
            <item><ipProtocol>tcp</ipProtocol><fromPort>80</fromPort><toPort>81</toPort><ipRanges><item><cidrIp>10.0.0.0/8</cidrIp></item></ipRanges></item>
        </ipPermissions></r>";
        let group: Group = quick_xml::de::from_str(text).unwrap();
        let there = present(&group.ip_permissions.item);
        assert_eq!(wanted.difference(&there).count(), 0);
        let extra: Vec<_> = there.difference(&wanted).collect();
        assert_eq!(extra.len(), 1);
        assert_eq!(extra[0].ports, Some((80, 81)));
    }
}
