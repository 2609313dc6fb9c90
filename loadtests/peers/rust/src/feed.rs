//! The workload, who subscribed to what, and the grid of planned ticks.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::sync::broadcast::{channel, Receiver, Sender};

/// What follows the number in each message of a tick, built once for a set.
pub type Tails = Arc<Vec<String>>;

/// So many ticks may wait for a connection that does not read; then it is dropped.
const WAITING: usize = 64;

#[derive(Deserialize)]
struct Workload {
    interval_ms: u64,
    kind: String,
    tokens: Vec<String>,
    ticks: Vec<Vec<(usize, String)>>,
}

#[derive(Deserialize)]
struct Subscription {
    data: Wanted,
}

#[derive(Deserialize)]
struct Wanted {
    tokens: Vec<String>,
}

pub struct Feed {
    pub prefix: String,
    workload: Workload,
    batch: bool,
    index: HashMap<String, usize>,
    /// The tokens of each distinct set, one flag each, and the channel to the connections that subscribed to it.
    groups: Mutex<HashMap<Vec<bool>, Sender<Tails>>>,
}

impl Feed {
    pub fn load(path: &str) -> Result<Self, Box<dyn Error>> {
        let workload: Workload = serde_json::from_slice(&fs::read(path)?)?;
        let batch = workload.kind == "batch";
        let kind = if batch { "token_batch" } else { "token_update" };
        Ok(Self {
            prefix: format!(r#"{{"type":"{kind}","sequence":"#),
            batch,
            index: workload.tokens.iter().cloned().zip(0..).collect(),
            groups: Mutex::default(),
            workload,
        })
    }

    /// The ticks for a client's first message, from the next one on; none when the message is not a subscription.
    pub fn subscribe(&self, message: &str) -> Option<Receiver<Tails>> {
        let told: Subscription = serde_json::from_str(message).ok()?;
        let mut wanted = vec![false; self.index.len()];
        for token in &told.data.tokens {
            wanted[*self.index.get(token)?] = true;
        }
        let mut groups = self.groups.lock().ok()?;
        Some(groups.entry(wanted).or_insert_with(|| channel(WAITING).0).subscribe())
    }

    fn tails(&self, tick: usize, wanted: &[bool]) -> Vec<String> {
        let changes = &self.workload.ticks[tick % self.workload.ticks.len()];
        let changed = changes.iter().filter(|(token, _)| wanted[*token]).map(|(_, data)| data.as_str());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let stamp = format!(r#","timestamp":{now},"data":"#);
        if !self.batch {
            return changed.map(|data| format!("{stamp}{data}}}")).collect();
        }
        let updates = changed.collect::<Vec<_>>();
        if updates.is_empty() {
            return Vec::new();
        }
        vec![format!(r#"{stamp}{{"updates":[{}]}}}}"#, updates.join(","))]
    }

    /// At each planned instant, hand every set with subscribers its tails.
    pub async fn run(self: Arc<Self>) {
        const MS: u64 = 1_000_000;
        let start = monotonic().div_ceil(MS) * MS;
        println!("listening\ngrid {start}");
        let interval = self.workload.interval_ms * MS;
        let mut tick = 0;
        loop {
            tick = (tick + 1).max(monotonic().saturating_sub(start).div_ceil(interval).saturating_sub(1));
            let early = (start + tick * interval).saturating_sub(monotonic());
            if early > 0 {
                tokio::time::sleep(Duration::from_nanos(early)).await;
            }
            let Ok(groups) = self.groups.lock() else { return };
            for (wanted, sender) in groups.iter().filter(|(_, sender)| sender.receiver_count() > 0) {
                let tails = self.tails(tick as usize, wanted);
                if !tails.is_empty() {
                    let _ = sender.send(Arc::new(tails));
                }
            }
        }
    }
}

/// CLOCK_MONOTONIC in ns.
fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
