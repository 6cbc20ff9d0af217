//! Tells of the room for recordings, before its end bites.

use std::sync::Arc;
use std::time::Duration;

use crate::record::room::{Room, Watch};
use crate::record::{self, Event};
use crate::session::House;
use crate::telemetry::SessionId;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks for as long as the task lives.
pub(super) async fn watch(house: Arc<House>, config: record::Config) {
    let (mut watch, mut period) = (Watch::new(&config.warn_percent), tokio::time::interval(PERIOD));
    let mut blind = false;
    loop {
        period.tick().await;
        let (config, health) = (config.clone(), house.recorder.health());
        // A file system may take its time to answer.
        let measured =
            tokio::task::spawn_blocking(move || Room::measure(&config, health.bytes, health.deletable)).await;
        match measured.unwrap_or_else(|broken| Err(std::io::Error::other(broken))) {
            Ok(room) => {
                blind = false;
                let (room, told) = watch.look(house.clock.monotonic(), room);
                house.recorder.set_room(room);
                if let Some(text) = told {
                    tracing::warn!("{text}");
                    note(&house, text).await;
                }
            }
            Err(error) if !std::mem::replace(&mut blind, true) => {
                tracing::error!(%error, "nobody knows how much room there is for recordings");
            }
            Err(_) => {}
        }
    }
}

async fn note(house: &House, text: String) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, Event::Note { text }).await {
        tracing::error!(%error, "that room gets short is not on record");
    }
}
