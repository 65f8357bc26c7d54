//! The calls about the node as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Ticket, checking, convert, metrics};
use crate::daemon::Node;
use crate::proto::node_server::Node as NodeCalls;
use crate::proto::{
    API_REVISION, CheckRequest, CheckResponse, CollectGarbageRequest, CollectGarbageResponse, Counter,
    GetStatsRequest, GetStatsResponse, HelloRequest, HelloResponse, OperationStats, VolumeStats,
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
            let mut volumes: BTreeMap<String, Vec<OperationStats>> = BTreeMap::new();
            match &wanted {
                // A volume that is not mounted has done nothing, and is shown so.
                Some(wanted) => drop(volumes.insert(wanted.name.clone(), Vec::new())),
                None => volumes.extend(node.store.volumes()?.into_iter().map(|info| (info.name, Vec::new()))),
            }
            for (mount, operations) in node.mounts.stats() {
                if wanted.as_ref().is_none_or(|wanted| wanted.id == mount.volume_id) {
                    let name = mount.snapshot().unwrap_or(mount.volume);
                    merge(volumes.entry(name).or_default(), operations.iter().map(metrics::operation));
                }
            }
            let counters = metrics::node_metrics(node)?
                .into_iter()
                .map(|metric| Counter { name: metric.name.to_owned(), value: metric.value });
            Ok(GetStatsResponse {
                volumes: volumes
                    .into_iter()
                    .map(|(volume, operations)| VolumeStats { volume, operations })
                    .collect(),
                counters: counters.collect(),
            })
        };
        self.node.answer("stats", work).await
    }
}

/// Adds what another mount of the same snapshot has done. Quantiles cannot be added: the slower
/// one is shown.
fn merge(sum: &mut Vec<OperationStats>, more: impl Iterator<Item = OperationStats>) {
    for one in more {
        match sum.iter_mut().find(|known| known.operation == one.operation) {
            None => sum.push(one),
            Some(known) => {
                known.count += one.count;
                known.errors += one.errors;
                known.p50_us = known.p50_us.max(one.p50_us);
                known.p99_us = known.p99_us.max(one.p99_us);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_same_snapshot_are_added_up() {
        let stats = |operation: &str, count, p99_us| OperationStats {
            operation: operation.to_owned(),
            count,
            errors: 1,
            p50_us: 1,
            p99_us,
        };
        let mut sum = vec![stats("read", 2, 9)];
        merge(&mut sum, [stats("read", 3, 7), stats("lookup", 1, 1)].into_iter());
        assert_eq!(sum.len(), 2);
        assert_eq!((sum[0].count, sum[0].errors, sum[0].p99_us), (5, 2, 9));
    }
}
