//! Metrics in the OpenMetrics text format (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), as Prometheus reads it.
//!
//! They are read off what is there when somebody asks: on the way of data nothing is counted for them alone. Labels are names of the
//! configuration and words of the program's own: an agent makes none.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Api;
use crate::clock::Timestamp;
use crate::record::room::Room;
use crate::session::Sort;

/// Who reads at once.
const AT_ONCE: usize = 16;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody is let in where that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// An address that somebody else has is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(1);
/// What an answer is.
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address at which anybody who can reach it may read the metrics, without TLS: none where it is not said.
    pub listen: Option<SocketAddr>,
}

/// All of them now. Blocks a little: it asks the kernel about this process.
///
/// # Errors
/// Never, as far as is known.
pub fn text(api: &Arc<Api>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("interceptor");
    registry.register_collector(Box::new(Reading(Arc::clone(api))));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// Serves whoever connects to that address, until the end of the program: `/metrics`, and nothing else. An address that somebody else has
/// is tried again: that must not keep agents from being served.
pub async fn serve(at: SocketAddr, api: Arc<Api>) {
    let mut is_told = false;
    let listener = loop {
        match TcpListener::bind(at).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::error!(%error, %at, "metrics cannot be read there, see [metrics] listen; it is tried again");
                }
                sleep(RETRY).await;
            }
        }
    };
    if is_told {
        tracing::info!(%at, "metrics can be read");
    }
    let pages = Arc::new(Pages { api, kept: Mutex::default() });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        match (listener.accept().await, Arc::clone(&places).try_acquire_owned()) {
            (Ok((stream, _)), Ok(place)) => {
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    let _late = timeout(PATIENCE, converse(stream, pages)).await;
                    drop(place);
                });
            }
            // Whoever comes while all places are taken finds the door closed.
            (Ok(_), Err(_)) => {}
            (Err(error), _) => {
                tracing::warn!(%error, "nobody who wants metrics can be let in for a moment");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, pages: Arc<Pages>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move { pages.answer(&request).await }
    });
    let served = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
    if let Err(error) = served {
        tracing::debug!(%error, "metrics were not read");
    }
}

/// What is answered, and kept for a second: whoever asks all the time costs no more than one who does it once.
struct Pages {
    api: Arc<Api>,
    kept: Mutex<Option<(Duration, String)>>,
}

impl Pages {
    async fn answer(self: Arc<Self>, request: &Request<Incoming>) -> Result<Response<String>, hyper::http::Error> {
        let response = Response::builder();
        if (request.method(), request.uri().path()) != (&Method::GET, "/metrics") {
            return response.status(StatusCode::NOT_FOUND).body("metrics are at /metrics\n".to_owned());
        }
        // It reads what the kernel says of this process.
        match tokio::task::spawn_blocking(move || self.page()).await {
            Ok(Ok(text)) => response.header(CONTENT_TYPE, CONTENT).body(text),
            _ => response.status(StatusCode::INTERNAL_SERVER_ERROR).body("metrics cannot be read\n".to_owned()),
        }
    }

    fn page(&self) -> Result<String, fmt::Error> {
        // Held while it is made: it is made once for all who wait.
        let mut kept = self.kept.lock();
        let now = self.api.house.clock.monotonic();
        if let Some((at, text)) = kept.as_ref()
            && now.saturating_sub(*at) < KEPT
        {
            return Ok(text.clone());
        }
        let text = text(&self.api)?;
        *kept = Some((now, text.clone()));
        Ok(text)
    }
}

#[derive(Debug)]
struct Reading(Arc<Api>);

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (api, mut sheet) = (&*self.0, Sheet(encoder));
        sheet.gauge("build_info", "Which version runs", None, [([("version", env!("CARGO_PKG_VERSION"))], 1.0)])?;
        sheet.sessions(api)?;
        sheet.rare(api)?;
        sheet.recorder(api)?;
        sheet.witnesses(api)?;
        sheet.process(api.started_at)
    }
}

/// Labels of one line.
type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn counter<'l, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        rows: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| line(&mut metric, &labels, &ConstCounter::new(value)))
    }

    fn gauge<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| line(&mut metric, &labels, &ConstGauge::new(value)))
    }

    fn sessions(&mut self, api: &Api) -> fmt::Result {
        let sums = api.house.registry.sums();
        let whose: Vec<(Labels<'_, 2>, _)> = sums
            .iter()
            .map(|((target, identity), sums)| {
                let identity = identity.as_ref().map_or("", |identity| identity);
                ([("target", &**target), ("identity", identity)], sums)
            })
            .collect();
        let live = whose.iter().map(|(labels, sums)| (*labels, as_f64(sums.live)));
        self.gauge("sessions", "Live sessions; without an identity they are not attested yet", None, live)?;
        let opened = whose.iter().map(|(labels, sums)| (*labels, sums.sessions));
        self.counter(("sessions_opened", "Sessions that were opened"), opened)?;
        let commands = whose.iter().map(|(labels, sums)| (*labels, sums.counters.commands));
        self.counter(("commands", "Commands that were judged"), commands)?;
        let denied = whose.iter().map(|(labels, sums)| (*labels, sums.counters.denied));
        self.counter(("commands_denied", "Commands that policy denied"), denied)?;
        let held = whose.iter().map(|(labels, sums)| (*labels, sums.counters.held));
        self.counter(("commands_held", "Commands that waited for people"), held)?;
        let masked = whose.iter().map(|(labels, sums)| (*labels, sums.counters.masked_cells));
        self.counter(("values_masked", "Values that were masked in answers"), masked)?;
        let bytes = whose.iter().flat_map(|([target, identity], sums)| {
            let way = |way| [*target, *identity, ("direction", way)];
            [(way("from_agent"), sums.counters.bytes_from_agent), (way("to_agent"), sums.counters.bytes_to_agent)]
        });
        self.counter(("transferred_bytes", "Bytes as agents sent and got them"), bytes)
    }

    fn rare(&mut self, api: &Api) -> fmt::Result {
        let (waiting, oldest) = api.house.approvals.waiting();
        self.gauge("approvals_waiting", "Commands that wait for people now", None, [([], as_f64(waiting as u64))])?;
        let oldest = oldest.map(|at| ([], seconds(at)));
        let help = "When the oldest of them began to wait";
        self.gauge("approvals_oldest_timestamp", help, Some(&Unit::Seconds), oldest)?;
        for (sort, label, name, help) in [
            (Sort::Approval, "outcome", "approvals", "Commands that waited for people, by what came of it"),
            (
                Sort::Refused,
                "fault",
                "connections_refused",
                "Connections that were refused, by whose fault it was: identity is a token or process that does not match",
            ),
            (
                Sort::Kernel,
                "kind",
                "kernel_refusals",
                "What the kernel programs refused to governed processes: attempts to get around the proxy, and lookups",
            ),
            (
                Sort::Stray,
                "to",
                "strays",
                "Processes that left a governed cgroup, by whether they are governed where they went",
            ),
            (Sort::Name, "fate", "names_asked", "Names that governed processes asked for, by what became of it"),
        ] {
            let counts = api.house.rare.of(sort);
            let rows = counts.iter().map(|(word, count)| ([(label, word.as_str())], *count));
            self.counter((name, help), rows)?;
        }
        Ok(())
    }

    fn recorder(&mut self, api: &Api) -> fmt::Result {
        let health = api.house.recorder.health();
        self.counter(("recorder_frames", "Frames in the spool"), [([], health.frames)])?;
        let failing = if health.failing.is_some() { 1.0 } else { 0.0 };
        self.gauge(
            "recorder_failing",
            "1 while nothing can be recorded, and so nothing is forwarded",
            None,
            [([], failing)],
        )?;
        let queued = as_f64(health.queued_entries as u64);
        self.gauge("recorder_queue_events", "Events that wait to be recorded", None, [([], queued)])?;
        let queued = as_f64(health.queued_bytes as u64);
        self.gauge("recorder_queue", "Bytes that wait to be recorded", Some(&Unit::Bytes), [([], queued)])?;
        let room = |of: fn(&Room) -> u64| health.room.as_ref().map(|room| ([], as_f64(of(room))));
        let help = "Bytes that can still be recorded before a bound bites, as it was seen within ten seconds";
        self.gauge("spool_left", help, Some(&Unit::Bytes), room(|room| room.left))?;
        let help = "Bytes that there would be, were nothing recorded";
        self.gauge("spool_limit", help, Some(&Unit::Bytes), room(|room| room.of))
    }

    fn witnesses(&mut self, api: &Api) -> fmt::Result {
        let states = api.witnesses.load();
        // Two may show the same name: what is secret of an address is not shown.
        let names: Vec<String> =
            states.iter().enumerate().map(|(at, state)| format!("{} {}", at + 1, state.name)).collect();
        let both = || names.iter().map(String::as_str).zip(states.iter());
        let failing =
            both().map(|(name, state)| ([("witness", name)], if state.failing.is_some() { 1.0 } else { 0.0 }));
        self.gauge("witness_failing", "1 while a witness cannot be told of checkpoints", None, failing)?;
        let told = both().filter_map(|(name, state)| Some(([("witness", name)], seconds(state.told_at?))));
        self.gauge("witness_told_timestamp", "When a witness was told last", Some(&Unit::Seconds), told)
    }

    fn process(&mut self, started: Timestamp) -> fmt::Result {
        self.gauge("process_start_time", "When the daemon started", Some(&Unit::Seconds), [([], seconds(started))])?;
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let spent = |time: TimeVal| u64::try_from(time.num_milliseconds()).unwrap_or_default();
            let rows = [("user", usage.user_time()), ("system", usage.system_time())];
            let rows = rows.map(|(mode, time)| ([("mode", mode)], as_f64(spent(time)) / 1000.0));
            self.seconds_spent(rows)?;
        }
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.gauge("process_open_fds", "Descriptors of the daemon", None, [([], as_f64(files as u64))])?;
        let memory = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: Option<u64> = memory.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.and_then(|page| u64::try_from(page).ok());
        let resident = pages.zip(page).map(|(pages, page)| ([], as_f64(pages * page)));
        self.gauge("process_resident_memory", "Memory of the daemon", Some(&Unit::Bytes), resident)
    }

    fn seconds_spent<'l>(&mut self, rows: impl IntoIterator<Item = (Labels<'l, 1>, f64)>) -> fmt::Result {
        let help = "Processor time of the daemon";
        let mut metric = self.0.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| line(&mut metric, &labels, &ConstCounter::new(value)))
    }
}

fn line<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_, N>,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(metric.encode_family(labels)?)
}

#[expect(clippy::cast_precision_loss, reason = "above 2^53 the last digits do not matter to anybody")]
const fn as_f64(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 fit for another two hundred years")]
const fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1e6
}
