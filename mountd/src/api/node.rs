//! The calls about the node as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use durdir_fs::fuse::Histogram;
use tonic::{Request, Response, Status};

use super::{Ticket, checking, convert, metrics};
use crate::daemon::Node;
use crate::proto::node_server::Node as NodeCalls;
use crate::proto::{
    API_REVISION, CheckRequest, CheckResponse, CollectGarbageRequest, CollectGarbageResponse, Counter,
    GetStatsRequest, GetStatsResponse, HelloRequest, HelloResponse, OldestRequest, OperationStats,
    VerifyRequest, VerifyResponse, VolumeStats,
};

/// Answers the calls about the node.
pub(super) struct NodeService {
    node: Arc<Node>,
}

impl NodeService {
    pub(super) fn new(node: Arc<Node>) -> NodeService {
        NodeService { node }
    }
}

#[tonic::async_trait]
impl NodeCalls for NodeService {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_revision: API_REVISION,
            pid: std::process::id(),
            store: convert::path_bytes(&self.node.endpoint.store),
            private: self.node.private,
        }))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        if !request.get_ref().repair {
            let work = |node: &Node| Ok(checking::check(&node.store, false)?);
            return self.node.answer("fsck", work).await;
        }
        // What is mended is no issue any more: told again, it must come from the record.
        let work = |node: &Node, _: CheckRequest, ticket: Ticket<'_>| {
            Ok(ticket.done(checking::check(&node.store, true)?))
        };
        self.node.perform("fsck --repair", request, work).await
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        let request = request.into_inner();
        let work = move |node: &Node| Ok(checking::verify(&node.store, request, node.tally.verifying())?);
        self.node.answer("verify", work).await
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        if request.get_ref().dry_run {
            let work = |node: &Node| Ok(convert::reclaimed(node.store.reclaimable()?));
            return self.node.answer("gc --dry-run", work).await;
        }
        let work = |node: &Node, _: CollectGarbageRequest, ticket: Ticket<'_>| {
            Ok(ticket.done(convert::reclaimed(node.store.reclaim()?)))
        };
        self.node.perform("gc", request, work).await
    }

    async fn get_stats(
        &self,
        request: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        let volume = request.into_inner().volume;
        let work = move |node: &Node| {
            let wanted = volume.map(|name| node.store.volume(&name)).transpose()?;
            let mut volumes: BTreeMap<String, VolumeStats> = BTreeMap::new();
            match &wanted {
                // A volume that is not mounted has done nothing, and is shown so.
                Some(wanted) => drop(volumes.insert(wanted.name.clone(), VolumeStats::default())),
                None => volumes.extend(
                    node.store.volumes()?.into_iter().map(|info| (info.name, VolumeStats::default())),
                ),
            }
            for (mount, operations) in node.mounts.stats() {
                if wanted.as_ref().is_none_or(|wanted| wanted.id == mount.volume_id) {
                    let name = mount.snapshot().unwrap_or(mount.volume);
                    let entry = volumes.entry(name).or_default();
                    merge(&mut entry.operations, operations.iter().map(metrics::operation));
                }
            }
            for (mount, oldest) in node.mounts.oldest_requests() {
                let name = mount.snapshot().unwrap_or(mount.volume);
                let age_us = convert::micros(oldest.age);
                // A snapshot may be mounted often; a volume that was not asked for is not there.
                if let Some(entry) = volumes.get_mut(&name)
                    && entry.oldest.as_ref().is_none_or(|other| other.age_us < age_us)
                {
                    entry.oldest = Some(OldestRequest { operation: oldest.operation.to_owned(), age_us });
                }
            }
            let counters = metrics::node_values(node)?
                .into_iter()
                .map(|(metric, value)| Counter { name: metric.stats.to_owned(), value });
            Ok(GetStatsResponse {
                volumes: volumes.into_iter().map(|(volume, stats)| VolumeStats { volume, ..stats }).collect(),
                counters: counters.collect(),
            })
        };
        self.node.answer("stats", work).await
    }
}

/// Adds what another mount of the same snapshot has done.
fn merge(sum: &mut Vec<OperationStats>, more: impl Iterator<Item = OperationStats>) {
    for one in more {
        match sum.iter_mut().find(|known| known.operation == one.operation) {
            None => sum.push(one),
            Some(known) => {
                known.count += one.count;
                known.errors += one.errors;
                known.bytes += one.bytes;
                let mut times = Histogram::of(std::mem::take(&mut known.buckets));
                times.add(&Histogram::of(one.buckets));
                known.p50_us = convert::micros(times.quantile(50));
                known.p99_us = convert::micros(times.quantile(99));
                known.buckets = times.buckets().to_vec();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_same_snapshot_are_added_up() {
        let stats = |operation: &str, buckets: &[u64]| OperationStats {
            operation: operation.to_owned(),
            count: buckets.iter().sum(),
            errors: 1,
            bytes: 8,
            buckets: buckets.to_vec(),
            ..OperationStats::default()
        };
        let mut long = vec![0; 100];
        long[99] = 3;
        let mut sum = vec![stats("read", &[2])];
        merge(&mut sum, [stats("read", &long), stats("lookup", &[1])].into_iter());
        assert_eq!(sum.len(), 2);
        assert_eq!((sum[0].count, sum[0].errors, sum[0].bytes), (5, 2, 16));
        assert_eq!((sum[0].buckets[0], sum[0].buckets[99]), (2, 3));
        assert!(sum[0].p99_us > 10_000, "{sum:?}");
    }
}
