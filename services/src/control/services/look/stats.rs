//! What the containers of a service use.

use bollard::models::{ContainerCpuStats, ContainerMemoryStats, ContainerStatsResponse};
use clap::Args;
use futures_util::future::{ready, try_join_all};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Error, containers, here};
use crate::config::ServiceName;
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Operation};
use crate::docker::engine;

/// What one or more containers use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Usage {
    /// Percent of a processor: 200 is all of two.
    pub cpu_usage: f64,
    /// Bytes of memory, without what the system could take back at once.
    pub memory_usage: u64,
    /// The most bytes of memory.
    pub memory_limit: u64,
    /// Percent of that.
    pub memory_percentage: f64,
    /// Bytes that came in.
    pub network_rx_bytes: u64,
    /// Bytes that went out.
    pub network_tx_bytes: u64,
    /// Bytes that were read from disks.
    pub block_read_bytes: u64,
    /// Bytes that were written to disks.
    pub block_write_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// What a service uses.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Stats {
    /// The service.
    pub service_name: ServiceName,
    /// All of its containers together.
    #[serde(flatten)]
    pub total: Usage,
    /// Each of them.
    pub containers: Vec<OfContainer>,
}

/// What a container uses.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OfContainer {
    /// The container.
    pub container_id: String,
    /// Which of the replicas it is.
    pub replica: u32,
    /// What it uses.
    #[serde(flatten)]
    pub usage: Usage,
}

/// Show what the running containers of a Docker service use now.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ServiceStats {
    /// Its name.
    pub service_name: ServiceName,
}

impl Operation for ServiceStats {
    const NAME: &'static str = "service_stats";
    const COMMAND: &'static [&'static str] = &["service", "stats"];
    const HTTP: Endpoint = get("/services/{service_name}/stats");
    const SCOPE: Access = Access::User;
    type Output = Stats;

    async fn run(self, control: &Control, _: &Context) -> Result<Stats, Error> {
        let (docker, service) = here(control, &self.service_name).await?;
        let running = containers(docker, &service, None)?.into_iter().filter(|one| one.state == "running");
        let looks = running.map(|one| async move {
            let stats = docker.engine.stats(&one.id).await?;
            Ok::<_, Error>(OfContainer { container_id: one.id, replica: one.replica, usage: usage(&stats) })
        });
        let containers = try_join_all(looks).await?;
        let total = containers.iter().fold(Usage::default(), |sum, one| sum.plus(&one.usage));
        Ok(Stats { service_name: self.service_name, total, containers })
    }
}

/// What comes when somebody follows what a service uses.
#[derive(Debug)]
pub(crate) enum Reading {
    /// What a container has used in the last second.
    Used(OfContainer),
    /// A container has ended, and with it its readings.
    Ended(String),
}

/// A reading of each container each second, until they end. Nobody reads ahead of whoever takes them.
pub(crate) async fn follow(
    control: &Control,
    service: &ServiceName,
) -> Result<BoxStream<'static, Result<Reading, engine::Error>>, Error> {
    let (docker, service) = here(control, service).await?;
    let mut streams = Vec::new();
    for one in containers(docker, &service, None)?.into_iter().filter(|one| one.state == "running") {
        streams.push(readings(docker.engine.follow_stats(&one.id)?, one.id, one.replica).boxed());
    }
    if streams.is_empty() {
        let name = &service.service_name;
        return Err(Error::Conflict(format!(
            "no container of the service {name} runs: there is nothing to read"
        )));
    }
    Ok(stream::select_all(streams).boxed())
}

fn readings(
    all: impl Stream<Item = Result<ContainerStatsResponse, engine::Error>> + Send,
    container_id: String,
    replica: u32,
) -> impl Stream<Item = Result<Reading, engine::Error>> + Send {
    let end = Reading::Ended(container_id.clone());
    // Of a container that has ended engines go on to tell nothing.
    all.take_while(|stats| ready(stats.as_ref().map_or(true, |stats| cpu_time(stats.cpu_stats.as_ref()) > 0)))
        // The use of processors can't be told by the first.
        .filter(|stats| ready(stats.as_ref().map_or(true, |stats| cpu_time(stats.precpu_stats.as_ref()) > 0)))
        .map(move |stats| {
            let usage = usage(&stats?);
            Ok(Reading::Used(OfContainer { container_id: container_id.clone(), replica, usage }))
        })
        .chain(stream::once(ready(Ok(end))))
}

/// The time of processors that a container has used.
fn cpu_time(stats: Option<&ContainerCpuStats>) -> u64 {
    stats.and_then(|stats| stats.cpu_usage.as_ref()?.total_usage).unwrap_or_default()
}

impl Usage {
    fn plus(self, other: &Self) -> Self {
        let memory_usage = self.memory_usage + other.memory_usage;
        let memory_limit = self.memory_limit.saturating_add(other.memory_limit);
        Self {
            cpu_usage: self.cpu_usage + other.cpu_usage,
            memory_usage,
            memory_limit,
            memory_percentage: percent(memory_usage, memory_limit),
            network_rx_bytes: self.network_rx_bytes + other.network_rx_bytes,
            network_tx_bytes: self.network_tx_bytes + other.network_tx_bytes,
            block_read_bytes: self.block_read_bytes + other.block_read_bytes,
            block_write_bytes: self.block_write_bytes + other.block_write_bytes,
            pids: self.pids + other.pids,
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn usage(stats: &ContainerStatsResponse) -> Usage {
    let memory = stats.memory_stats.clone().unwrap_or_default();
    let (memory_usage, memory_limit) = (used(&memory), memory.limit.unwrap_or_default());
    let networks = stats.networks.iter().flat_map(|all| all.values());
    let (rx, tx) = networks.fold((0, 0), |(rx, tx), one| {
        (rx + one.rx_bytes.unwrap_or_default(), tx + one.tx_bytes.unwrap_or_default())
    });
    let blocks = |operation: &str| {
        let all = stats.blkio_stats.as_ref().and_then(|all| all.io_service_bytes_recursive.as_ref());
        // `Read` on cgroups v1, `read` on v2.
        let of = all
            .into_iter()
            .flatten()
            .filter(|one| one.op.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(operation)));
        of.filter_map(|one| one.value).sum()
    };
    Usage {
        cpu_usage: processors(stats.cpu_stats.as_ref(), stats.precpu_stats.as_ref()),
        memory_usage,
        memory_limit,
        memory_percentage: percent(memory_usage, memory_limit),
        network_rx_bytes: rx,
        network_tx_bytes: tx,
        block_read_bytes: blocks("read"),
        block_write_bytes: blocks("write"),
        pids: stats.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or_default(),
    }
}

/// Memory without the file cache that nobody uses: `total_inactive_file` on cgroups v1, `inactive_file` on v2.
fn used(memory: &ContainerMemoryStats) -> u64 {
    let of = |name: &str| memory.stats.as_ref().and_then(|all| all.get(name).copied());
    let cache = of("total_inactive_file").or_else(|| of("inactive_file")).unwrap_or_default();
    memory.usage.unwrap_or_default().saturating_sub(cache)
}

fn processors(now: Option<&ContainerCpuStats>, before: Option<&ContainerCpuStats>) -> f64 {
    let system = |stats: Option<&ContainerCpuStats>| {
        stats.and_then(|stats| stats.system_cpu_usage).unwrap_or_default()
    };
    let used = cpu_time(now).saturating_sub(cpu_time(before));
    let passed = system(now).saturating_sub(system(before));
    let per_cpu = || now?.cpu_usage.as_ref()?.percpu_usage.as_ref().map(|all| all.len() as f64);
    let online = now.and_then(|now| now.online_cpus).filter(|count| *count > 0).map(f64::from);
    percent(used, passed) * online.or_else(per_cpu).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(value: Value) -> Usage {
        usage(&serde_json::from_value(value).expect("an answer of the engine"))
    }

    #[tokio::test]
    async fn readings_are_told_until_the_container_ends() {
        let at = |now: u64, before: u64| {
            let stats = json!({
                "cpu_stats": { "cpu_usage": { "total_usage": now }, "system_cpu_usage": now * 10 },
                "precpu_stats": { "cpu_usage": { "total_usage": before }, "system_cpu_usage": before * 10 },
            });
            Ok(serde_json::from_value(stats).expect("an answer of the engine"))
        };
        // The engine would go on like the last one for ever.
        let all = stream::iter([at(100, 0), at(200, 100), at(300, 200), at(0, 300)]).chain(stream::pending());
        let told: Vec<_> = readings(all, "abc".to_owned(), 0).collect().await;
        let told = told.into_iter().map(|reading| match reading.expect("readable") {
            Reading::Used(one) => one.usage.cpu_usage.round().to_string(),
            Reading::Ended(id) => id,
        });
        assert_eq!(told.collect::<Vec<_>>(), ["10", "10", "abc"]);
    }

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let first = of(json!({
            "cpu_stats": { "cpu_usage": { "total_usage": 300, "percpu_usage": [150, 150] }, "system_cpu_usage": 2000 },
            "precpu_stats": { "cpu_usage": { "total_usage": 100 }, "system_cpu_usage": 1000 },
            "memory_stats": { "usage": 1000, "limit": 4000, "stats": { "total_inactive_file": 200, "inactive_file": 1 } },
            "networks": { "eth0": { "rx_bytes": 5, "tx_bytes": 6 }, "eth1": { "rx_bytes": 1, "tx_bytes": 1 } },
            "blkio_stats": { "io_service_bytes_recursive": [
                { "major": 8, "minor": 0, "op": "Read", "value": 7 }, { "major": 8, "minor": 0, "op": "Write", "value": 8 },
                { "major": 8, "minor": 0, "op": "Total", "value": 15 } ] },
            "pids_stats": { "current": 3 },
        }));
        assert!((first.cpu_usage - 40.0).abs() < 0.001, "{first:?}");
        assert_eq!((first.memory_usage, first.memory_limit, first.pids), (800, 4000, 3));
        assert_eq!((first.network_rx_bytes, first.network_tx_bytes), (6, 7));
        assert_eq!((first.block_read_bytes, first.block_write_bytes), (7, 8));
        let second = of(json!({
            "cpu_stats": { "cpu_usage": { "total_usage": 300 }, "system_cpu_usage": 2000, "online_cpus": 4 },
            "precpu_stats": { "cpu_usage": { "total_usage": 100 }, "system_cpu_usage": 1000 },
            "memory_stats": { "usage": 1000, "limit": 4000, "stats": { "inactive_file": 300 } },
            "blkio_stats": { "io_service_bytes_recursive": [{ "major": 8, "minor": 0, "op": "read", "value": 9 }] },
        }));
        assert!((second.cpu_usage - 80.0).abs() < 0.001, "{second:?}");
        assert_eq!((second.memory_usage, second.block_read_bytes), (700, 9));
        let both = first.plus(&second);
        assert_eq!((both.memory_usage, both.memory_limit), (1500, 8000));
    }
}
