//! Three services on board and their users: `front-end-a` (pictures) asks `front-end-b` (pointing) and `back-end` (bus data).
//!
//! Each service is a task with an HTTP server on loopback and SDK providers of its own; it asks the others over HTTP with W3C
//! traceparent, so that one user request is one trace over all three.

mod tally;
mod telemetry;
mod user;
pub(crate) mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use opentelemetry::KeyValue;
use opentelemetry::logs::Severity;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use tally::Tally;
use telemetry::Telemetry;
use web::Client;

/// A service as its handlers see it.
struct Service {
    telemetry: Telemetry,
    client: Client,
    /// Of the services that it asks.
    others: Vec<SocketAddr>,
}

/// The services and their users.
pub(crate) struct Services {
    stop: CancellationToken,
    tasks: TaskTracker,
    all: Vec<Arc<Service>>,
    tally: Tally,
}

impl Services {
    /// Starts them; telemetry goes to `otlp` (HOST:PORT), and `requests` come a second.
    pub(crate) async fn start(otlp: &str, requests: u32) -> anyhow::Result<Self> {
        let (stop, tasks, tally) = (CancellationToken::new(), TaskTracker::new(), Tally::default());
        let mut services = Self { stop, tasks, all: Vec::new(), tally };
        let bus = Router::new().route("/attitude/{id}", get(attitude)).route("/frame/{id}", get(frame));
        let bus = services.serve("back-end", otlp, bus, Vec::new()).await?;
        let pointing = Router::new().route("/pointing/{id}", get(pointing));
        let pointing = services.serve("front-end-b", otlp, pointing, vec![bus]).await?;
        let pictures = Router::new().route("/picture/{id}", get(picture));
        let pictures = services.serve("front-end-a", otlp, pictures, vec![pointing, bus]).await?;
        services.tasks.spawn(user::run(pictures, pointing, requests, services.stop.clone()));
        Ok(services)
    }

    /// Binds a service and serves it until the end.
    async fn serve(
        &mut self,
        name: &'static str,
        otlp: &str,
        router: Router<Arc<Service>>,
        others: Vec<SocketAddr>,
    ) -> anyhow::Result<SocketAddr> {
        let telemetry = Telemetry::try_new(name, otlp, &self.tally).with_context(|| name)?;
        let service = Arc::new(Service { telemetry, client: Client::new(), others });
        let watched = axum::middleware::from_fn_with_state(Arc::clone(&service), web::watch);
        let router = router.layer(watched).with_state(Arc::clone(&service));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stop = self.stop.clone().cancelled_owned();
        self.tasks.spawn(async move {
            // It ends when it is told to; accepting does not fail for good.
            let _ = axum::serve(listener, router).with_graceful_shutdown(stop).await;
        });
        self.all.push(service);
        Ok(address)
    }

    /// The camera dumps raw data: so many log records that do not compress, the first of which says `first`.
    pub(crate) async fn dump(&self, first: &'static str, records: u64) -> anyhow::Result<()> {
        self.say(move |telemetry| {
            telemetry.log(Severity::Info, first, Vec::new());
            for (n, data) in noise().take(records as usize).enumerate() {
                let attributes = vec![KeyValue::new("line", n as i64), KeyValue::new("data", data)];
                telemetry.log(Severity::Info, "camera data", attributes);
            }
        })
        .await
    }

    /// Somebody on board has something urgent to say.
    pub(crate) async fn alarm(&self, severity: Severity, text: &'static str) -> anyhow::Result<()> {
        self.say(move |telemetry| telemetry.log(severity, text, Vec::new())).await
    }

    /// Logs as the service `front-end-a` and sends it at once.
    async fn say(&self, log: impl FnOnce(&Telemetry) + Send + 'static) -> anyhow::Result<()> {
        let service = Arc::clone(self.all.last().context("no service runs")?);
        // Sending blocks its thread.
        tokio::task::spawn_blocking(move || {
            log(&service.telemetry);
            service.telemetry.flush_logs()
        })
        .await?
    }

    /// Ends users and servers, then sends what the SDKs still hold.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<Tally> {
        self.stop.cancel();
        self.tasks.close();
        // A connection that is kept alive may hold a server up; what matters is what the SDKs hold.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await;
        for service in std::mem::take(&mut self.all) {
            // The SDK's shutdown blocks its thread until the last batch is through.
            tokio::task::spawn_blocking(move || service.telemetry.shutdown()).await?;
        }
        Ok(self.tally.clone())
    }
}

type Answer = Result<String, StatusCode>;

/// A picture needs to know where the camera points, and the raw frame.
async fn picture(State(s): State<Arc<Service>>, Path(id): Path<u64>) -> Answer {
    let [pointing, bus] = s.others[..] else { return Err(StatusCode::INTERNAL_SERVER_ERROR) };
    let at = web::ask(&s, &format!("http://{pointing}/pointing/{id}")).await?;
    let frame = web::ask(&s, &format!("http://{bus}/frame/{id}")).await?;
    s.telemetry.log(Severity::Info, "picture taken", vec![KeyValue::new("picture.id", id as i64)]);
    Ok(format!("picture {id}: {frame} at {at}"))
}

async fn pointing(State(s): State<Arc<Service>>, Path(id): Path<u64>) -> Answer {
    let [bus] = s.others[..] else { return Err(StatusCode::INTERNAL_SERVER_ERROR) };
    web::ask(&s, &format!("http://{bus}/attitude/{id}")).await
}

async fn attitude(State(s): State<Arc<Service>>, Path(id): Path<u64>) -> Answer {
    work(1 + id % 4).await;
    let angle = (id * 37 % 3600) as f64 / 10.0;
    s.telemetry.measure("bus.attitude", angle);
    s.telemetry.log(Severity::Debug, "attitude read", vec![KeyValue::new("bus.attitude.degrees", angle)]);
    Ok(format!("{angle} degrees"))
}

/// Now and then a frame is broken, so that there is something to look for.
async fn frame(State(s): State<Arc<Service>>, Path(id): Path<u64>) -> Answer {
    work(2 + id % 9).await;
    let temperature = 18.0 + (id % 50) as f64 / 10.0;
    s.telemetry.measure("bus.camera.temperature", temperature);
    if id % 50 == 49 {
        let attributes = vec![KeyValue::new("picture.id", id as i64)];
        s.telemetry.log(Severity::Error, "frame is broken: checksum", attributes);
        return Err(StatusCode::BAD_GATEWAY);
    }
    Ok(format!("{} bytes", 40_000 + id % 1000))
}

/// Lines of 4 KiB in which nothing repeats, the same in each run: xorshift64 in hexadecimal digits.
fn noise() -> impl Iterator<Item = String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut word = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    std::iter::repeat_with(move || (0..256).map(|_| word()).collect())
}

async fn work(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
