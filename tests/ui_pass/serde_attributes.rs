//! Attributes of serde that say the same for both directions compile.
use std::collections::{BTreeMap, HashMap};

use larder::{Cached, Columns};
use serde::{Deserialize, Serialize, Serializer};

#[derive(Clone, Default, Serialize, Deserialize, sqlx::FromRow, Columns)]
#[serde(rename_all(serialize = "kebab-case", deserialize = "kebab-case"))]
struct Route {
    first_stop: String,
    #[serde(rename(serialize = "last"), alias = "last")]
    last_stop: String,
}

#[derive(Clone, Default, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
#[serde(rename_all = "camelCase")]
struct Flight {
    #[cached(id)]
    id: i64,
    departure_time: i64,
    #[sqlx(flatten)]
    route: Route,
    #[serde(rename = "gate")]
    gate_name: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    remarks: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[sqlx(json)]
    #[serde(serialize_with = "in_order", deserialize_with = "Deserialize::deserialize")]
    labels: HashMap<String, String>,
    #[sqlx(skip)]
    #[serde(skip)]
    computed: u32,
}

fn in_order<S: Serializer>(
    labels: &HashMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    labels.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports")]
#[serde(into = "Raw", try_from = "Raw")]
struct Airport {
    #[cached(id)]
    code: String,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    iata: String,
}

impl From<Airport> for Raw {
    fn from(airport: Airport) -> Self {
        Self { iata: airport.code }
    }
}

impl TryFrom<Raw> for Airport {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        match raw.iata.len() {
            3 => Ok(Self { code: raw.iata }),
            _ => Err("a code has three letters"),
        }
    }
}

fn main() {
    let _ = Flight::repository::<sqlx::Postgres>;
    let _ = Airport::repository::<sqlx::Sqlite>;
}
