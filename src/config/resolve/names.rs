//! How names of endpoints are looked up.

use super::super::file::{ResolverTable, ResolverValue};
use super::super::read::At;
use super::super::values::NameServer;
use super::{Resolver, values};
use crate::upstream::discovery;

impl Resolver<'_> {
    pub(super) fn names(&mut self) -> discovery::Resolver {
        let default = discovery::Resolver::default();
        let table = match self.file.resolver.as_ref().map(|resolver| &resolver.value) {
            None => return default,
            Some(ResolverValue::Short(servers)) => {
                return discovery::Resolver {
                    servers: servers.iter().map(address).collect(),
                    ..default
                };
            }
            Some(ResolverValue::Table(table)) => table,
        };
        let time =
            |written: Option<&At<_>>, default| written.map_or(default, |time: &At<super::Time>| time.value.0);
        let resolver = discovery::Resolver {
            servers: values(table.servers.as_ref(), |server| server.0),
            ttl_min: time(table.ttl_min.as_ref(), default.ttl_min),
            ttl_max: time(table.ttl_max.as_ref(), default.ttl_max),
        };
        self.check_ttls(table, &resolver);
        resolver
    }

    fn check_ttls(&mut self, table: &ResolverTable, resolver: &discovery::Resolver) {
        for time in [&table.ttl_min, &table.ttl_max].into_iter().flatten() {
            if time.value.0.is_zero() {
                let help = "write \"1s\" or more: servers of names are not to be asked without a pause";
                self.error(
                    "out-of-range",
                    time.span.clone(),
                    "an answer is kept for some time",
                    help,
                );
                return;
            }
        }
        let written = table.ttl_max.as_ref().or(table.ttl_min.as_ref());
        if let Some(written) = written.filter(|_| resolver.ttl_min > resolver.ttl_max) {
            let (least, most) = (resolver.ttl_min, resolver.ttl_max);
            let message = format!("`ttl_min` ({least:?}) is longer than `ttl_max` ({most:?})");
            let help = "write a `ttl_max` that is as long or longer";
            self.error("limit-conflict", written.span.clone(), message, help);
        }
    }
}

fn address(server: &At<NameServer>) -> std::net::SocketAddr {
    server.value.0
}
