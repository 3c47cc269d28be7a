//! What can be ordered: the instance types that the Cloud asks for, as its zone has them,
//! with prices; and whether the credentials suffice to order at all.

use super::{
    Ec2,
    answer::{Done, Offerings, SpotPrices, Type, Types},
    client::Form,
    price,
};
use crate::{Error, Offer, Result};
use jiff::Timestamp;
use serde::Deserialize;
use skysail_schemas::{
    host::Resources,
    quantity::{Bandwidth, Bytes, Cpu},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// How long offers hold: types and prices change seldom.
const HOLDS: Duration = Duration::from_secs(3600);
/// So many instance types become MachineTypes at the most.
const MOST: usize = 200;
/// How many values a filter takes.
const VALUES: usize = 100;

/// The processor of machines that this program runs on, in EC2's words.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    }
}

impl Ec2 {
    /// The offers; asked once an hour, or when settings or credentials changed.
    pub(super) async fn offered(&self) -> Result<Vec<Offer>> {
        let mut hasher = DefaultHasher::new();
        (format!("{:?}", self.settings), &self.client.source).hash(&mut hasher);
        let with = hasher.finish();
        let mut known = self.client.memory.offers.lock().await;
        if let Some((found_with, at, offers)) = &*known
            && *found_with == with
            && at.elapsed() < HOLDS
        {
            return Ok(offers.clone());
        }
        self.check_zone().await?;
        let types = self.types().await?;
        self.check_permissions(types.first()).await?;
        let names: Vec<&str> = types.iter().map(|t| t.instance_type.as_str()).collect();
        let prices = self.prices(&names).await;
        let spot = self.spot_prices(&names).await.unwrap_or_else(|e| {
            tracing::warn!(cloud = self.client.cloud, "no spot prices: {e}");
            BTreeMap::new()
        });
        let offers: Vec<Offer> = types
            .iter()
            .map(|t| self.offer(t, &prices, &spot))
            .collect();
        *known = Some((with, Instant::now(), offers.clone()));
        Ok(offers)
    }

    fn offer(
        &self,
        size: &Type,
        prices: &BTreeMap<String, String>,
        spot: &BTreeMap<String, String>,
    ) -> Offer {
        Offer {
            name: size.instance_type.clone(),
            resources: Resources {
                cpu: Cpu(size.v_cpu_info.default * 1000),
                memory: Bytes(size.memory_info.size_in_mi_b << 20),
                disk: self.settings.disk,
            },
            price_per_hour: prices.get(&size.instance_type).cloned(),
            spot_price_per_hour: spot.get(&size.instance_type).cloned(),
            bandwidth: bandwidth(&size.network_info.network_performance),
        }
    }

    async fn check_zone(&self) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Zones {
            availability_zone_info: super::answer::Set<Zone>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Zone {
            zone_name: String,
        }
        let zones: Zones = self
            .client
            .call(&Form::new("DescribeAvailabilityZones"))
            .await?;
        let zones = zones.availability_zone_info.item;
        let names: Vec<String> = zones.into_iter().map(|z| z.zone_name).collect();
        match &self.zone {
            Some(zone) if !names.contains(zone) => Err(Error::Refused(format!(
                "Cloud {}: spec.zone: {} has no zone {zone}; it has {}",
                self.client.cloud,
                self.client.region,
                names.join(", ")
            ))),
            _ => Ok(()),
        }
    }

    /// The types that the Cloud asks for and the zone has, in order of names.
    async fn types(&self) -> Result<Vec<Type>> {
        let patterns = &self.settings.machine_types;
        let mut found = vec![];
        for some in patterns.chunks(VALUES) {
            let mut next: Option<String> = None;
            loop {
                let mut form = Form::new("DescribeInstanceTypes")
                    .with("Filter.1.Name", "instance-type")
                    .list("Filter.1.Value", some)
                    .with("MaxResults", "100");
                form = form.maybe("NextToken", next.take());
                let answer: Types = self.client.call(&form).await?;
                found.extend(answer.instance_type_set.item);
                next = answer.next_token.filter(|t| !t.is_empty());
                if next.is_none() || found.len() > 10_000 {
                    break;
                }
            }
        }
        let zone = self.in_zone().await?;
        let suits = |t: &Type| {
            patterns.iter().any(|p| matches(p, &t.instance_type))
                && zone.as_ref().is_none_or(|z| z.contains(&t.instance_type))
                && !t.bare_metal
                && t.processor_info
                    .supported_architectures
                    .item
                    .iter()
                    .any(|a| a == architecture())
        };
        found.retain(suits);
        found.sort_by(|a, b| a.instance_type.cmp(&b.instance_type));
        found.dedup_by(|a, b| a.instance_type == b.instance_type);
        if found.len() > MOST {
            return Err(Error::Refused(format!(
                "Cloud {}: spec.ec2.machineTypes means {} instance types; at the most {MOST} become MachineTypes: name fewer, for example m7i.*",
                self.client.cloud,
                found.len()
            )));
        }
        Ok(found)
    }

    /// The names of the types that the Cloud's zone has, where it names one.
    async fn in_zone(&self) -> Result<Option<BTreeSet<String>>> {
        let Some(zone) = &self.zone else {
            return Ok(None);
        };
        let mut names = BTreeSet::new();
        let mut next: Option<String> = None;
        loop {
            let form = Form::new("DescribeInstanceTypeOfferings")
                .with("LocationType", "availability-zone")
                .filter(1, "location", zone)
                .with("MaxResults", "1000")
                .maybe("NextToken", next.take());
            let answer: Offerings = self.client.call(&form).await?;
            let page = answer.instance_type_offering_set.item;
            names.extend(page.into_iter().map(|o| o.instance_type));
            next = answer.next_token.filter(|t| !t.is_empty());
            if next.is_none() || names.len() > 10_000 {
                return Ok(Some(names));
            }
        }
    }

    /// Asks for what ordering needs without ordering, and names every permission that is missing.
    async fn check_permissions(&self, size: Option<&Type>) -> Result<()> {
        let nobody = "i-00000000000000000";
        let image = self.image().await?.image_id;
        let run = Form::new("RunInstances")
            .with("ImageId", image)
            .maybe("InstanceType", size.map(|t| &t.instance_type))
            .with("MinCount", "1")
            .with("MaxCount", "1")
            .maybe("SubnetId", self.settings.subnet.as_ref());
        let tag = Form::new("CreateTags")
            .list("ResourceId", [nobody])
            .with("Tag.1.Key", super::tags::CLOUD)
            .with("Tag.1.Value", &self.uid);
        let mut asks = vec![
            ("RunInstances", run),
            (
                "TerminateInstances",
                Form::new("TerminateInstances").list("InstanceId", [nobody]),
            ),
            ("CreateTags", tag),
        ];
        if self.settings.security_groups.is_empty() {
            let group = Form::new("CreateSecurityGroup")
                .with("GroupName", "skysail-permission-check")
                .with("GroupDescription", "never made");
            asks.push(("CreateSecurityGroup", group));
        }
        let mut missing = vec![];
        for (action, form) in asks {
            match self.client.call::<Done>(&form.with("DryRun", "true")).await {
                Err(Error::Denied(said)) if said.contains("lack the permission") => {
                    missing.push(format!("ec2:{action}"));
                }
                Err(e @ (Error::Denied(_) | Error::Throttled(_))) => return Err(e),
                _ => {} // it would have been done, or failed for its made-up parameters
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Denied(format!(
            "the credentials of {} lack the permission {}; add it to their policy",
            self.client.source.place(),
            missing.join(", ")
        )))
    }

    /// Prices on demand: those that the Cloud states, else the price list's. A price list that
    /// cannot be read leaves the others out: machines can be ordered without knowing their price.
    async fn prices(&self, names: &[&str]) -> BTreeMap<String, String> {
        let mut prices = self.settings.prices.clone();
        if names.iter().all(|n| prices.contains_key(*n)) {
            return prices;
        }
        match price::list(&self.client).await {
            Ok(listed) => {
                for (name, price) in listed {
                    prices.entry(name).or_insert(price);
                }
            }
            Err(e) => tracing::warn!(cloud = self.client.cloud, "no price list: {e}"),
        }
        prices
    }

    /// The lowest price of each type on the spot market now, in the Cloud's zone or in any.
    async fn spot_prices(&self, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
        for some in names.chunks(VALUES) {
            let form = Form::new("DescribeSpotPriceHistory")
                .list("InstanceType", some)
                .list("ProductDescription", ["Linux/UNIX"])
                .with(
                    "StartTime",
                    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                )
                .maybe("AvailabilityZone", self.zone.as_ref());
            let answer: SpotPrices = self.client.call(&form).await?;
            for price in answer.spot_price_history_set.item {
                let new = (price.timestamp, price.spot_price);
                let newest = found
                    .entry(price.instance_type)
                    .or_insert_with(|| new.clone());
                if new.0 > newest.0 || (new.0 == newest.0 && number(&new.1) < number(&newest.1)) {
                    *newest = new;
                }
            }
        }
        Ok(found
            .into_iter()
            .map(|(name, (_, price))| (name, price))
            .collect())
    }
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or(f64::INFINITY)
}

/// Whether `name` is meant by `pattern`, in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
        }),
    }
}

/// `Up to 12.5 Gigabit` as a number; `None` for words such as `Moderate`.
fn bandwidth(text: &str) -> Option<Bandwidth> {
    let mut words = text.split_whitespace().rev();
    let unit = match words.next()? {
        "Gigabit" => 1e9,
        "Megabit" => 1e6,
        _ => return None,
    };
    let many: f64 = words.next()?.parse().ok()?;
    let bits = many * unit;
    (bits.is_finite() && bits > 0.0).then_some(Bandwidth(bits as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, fits) in [
            ("m5.large", "m5.large", true),
            ("m5.*", "m5.24xlarge", true),
            ("m5.*", "m5a.large", false),
            ("*.large", "m5.large", true),
            ("*", "x", true),
            ("m*.*large", "m5.xlarge", true),
            ("m5", "m5.large", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn the_network_in_words_is_a_number_where_it_is_one() {
        assert_eq!(
            bandwidth("Up to 12.5 Gigabit"),
            Some(Bandwidth(12_500_000_000))
        );
        assert_eq!(bandwidth("25 Gigabit"), Some(Bandwidth(25_000_000_000)));
        assert_eq!(bandwidth("Moderate"), None);
        assert_eq!(bandwidth(""), None);
    }
}
