//! Addresses that no configuration may lead to: where a cloud hands out credentials to whoever asks from inside.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{self, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// Names of metadata services that need not resolve to an address of their own.
const METADATA_NAMES: &[&str] =
    &["metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data"];

/// Whether a host's name is that of a cloud's metadata service.
pub fn is_metadata_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    METADATA_NAMES.contains(&name.as_str()) || name.starts_with("instance-data.")
}

/// Whether an address is one from which a cloud hands out credentials, or none that a service could have.
///
/// Link-local addresses as a whole (AWS, Google, Azure, Oracle and others: 169.254.169.254), those of Alibaba and of
/// Azure's host, that of AWS in IPv6; also written as IPv4 inside IPv6. Loopback and private networks are not among
/// them: servers of one's own are there.
pub fn is_metadata_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_link_local()
                || address.is_unspecified()
                || address.is_broadcast()
                || address.is_multicast()
                || address == Ipv4Addr::new(100, 100, 100, 200)
                || address == Ipv4Addr::new(168, 63, 129, 16)
        }
        IpAddr::V6(address) => {
            if let Some(inner) = address.to_ipv4_mapped() {
                return is_metadata_address(IpAddr::V4(inner));
            }
            // NAT64 carries any IPv4 address in the last 32 bits.
            if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                return is_metadata_address(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
            }
            address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
        }
    }
}

/// Resolves names, and refuses those that lead to a metadata address: a name's owner may change where it leads.
#[derive(Clone)]
pub(crate) struct Guarded(GaiResolver);

impl Guarded {
    pub(crate) fn new() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let forbidden = is_metadata_name(name.as_str());
        let found = self.0.call(name);
        Box::pin(async move {
            let refused = || {
                std::io::Error::new(
                    std::io::ErrorKind::PermissionDenied,
                    "the name leads to an address of a cloud's metadata",
                )
            };
            if forbidden {
                return Err(refused());
            }
            let all: Vec<SocketAddr> = found.await?.collect();
            let kept: Vec<SocketAddr> =
                all.iter().copied().filter(|address| !is_metadata_address(address.ip())).collect();
            if kept.is_empty() && !all.is_empty() { Err(refused()) } else { Ok(kept.into_iter()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_metadata_are_known_in_every_form() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(is_metadata_address(address.parse().unwrap()), "{address}");
        }
        for address in
            ["127.0.0.1", "10.0.0.5", "192.168.1.1", "8.8.8.8", "::1", "fd00::1", "2606:4700::1111"]
        {
            assert!(!is_metadata_address(address.parse().unwrap()), "{address}");
        }
        for name in [
            "metadata.google.internal",
            "METADATA.GOOGLE.INTERNAL.",
            "metadata",
            "instance-data.ec2.internal",
        ] {
            assert!(is_metadata_name(name), "{name}");
        }
        assert!(!is_metadata_name("metadata.example.com"));
    }

    #[tokio::test]
    async fn a_name_that_is_a_metadata_service_is_not_resolved() {
        let mut resolver = Guarded::new();
        let name: Name = "metadata.google.internal".parse().unwrap();
        let error = resolver.call(name).await.expect_err("a metadata service");
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(resolver.call("localhost".parse().unwrap()).await.is_ok());
    }
}
