//! The price list (AWS Price List Query API).

use super::client::Client;
use crate::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// More pages than any region has.
const PAGES: usize = 60;

/// Price per hour on demand by instance type: Linux, shared hardware, in the client's region.
pub async fn list(client: &Client) -> Result<BTreeMap<String, String>> {
    let filter =
        |field: &str, value: &str| json!({"Type": "TERM_MATCH", "Field": field, "Value": value});
    let mut query = json!({
        "ServiceCode": "AmazonEC2",
        "FormatVersion": "aws_v1",
        "MaxResults": 100,
        "Filters": [
            filter("regionCode", &client.region),
            filter("operatingSystem", "Linux"),
            filter("tenancy", "Shared"),
            filter("preInstalledSw", "NA"),
            filter("capacitystatus", "Used"),
        ],
    });
    let mut prices = BTreeMap::new();
    for _ in 0..PAGES {
        let answer = client.products(&query).await?;
        let entries = answer["PriceList"].as_array().into_iter().flatten();
        prices.extend(entries.filter_map(|entry| entry_of(entry.as_str()?)));
        match answer["NextToken"].as_str().filter(|t| !t.is_empty()) {
            Some(token) => query["NextToken"] = token.into(),
            None => break,
        }
    }
    Ok(prices)
}

/// Instance type and price of one entry, which is JSON in a string.
fn entry_of(text: &str) -> Option<(String, String)> {
    let entry: Value = serde_json::from_str(text).ok()?;
    let name = entry["product"]["attributes"]["instanceType"].as_str()?;
    let terms = entry["terms"]["OnDemand"].as_object()?;
    let dimensions = terms
        .values()
        .filter_map(|t| t["priceDimensions"].as_object());
    let mut prices = dimensions
        .flat_map(|d| d.values())
        .filter(|d| d["unit"] == "Hrs")
        .filter_map(|d| d["pricePerUnit"].as_object()?.values().next()?.as_str())
        .filter_map(|p| p.parse::<f64>().ok())
        .filter(|p| p.is_finite() && *p > 0.0);
    let price = prices.next()?;
    Some((name.to_owned(), price.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_is_found_where_the_price_list_hides_it() {
        let entry = json!({
            "product": {"attributes": {"instanceType": "m5.large"}},
            "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C":
                {"unit": "Hrs", "pricePerUnit": {"USD": "0.1150000000"}}}}}},
        });
        let found = entry_of(&entry.to_string());
        assert_eq!(found, Some(("m5.large".into(), "0.115".into())));
        assert_eq!(entry_of("nonsense"), None);
        assert_eq!(entry_of("{}"), None);
    }
}
