//! Longest prefix match: the narrowest network that holds an address.

use std::net::IpAddr;

use ipnet::IpNet;

/// Marks addresses that no network holds.
const NOBODY: u32 = u32::MAX;

/// Networks with a value each, built once and then only read.
///
/// Prefixes either nest or are apart, so they cut the addresses into stretches that each belong to
/// one narrowest prefix. A look-up is one binary search among the stretches: never more steps than
/// an address has bits, plus one.
#[derive(Debug)]
pub(super) struct Networks<T> {
    entries: Vec<Entry<T>>,
    four: Stretches<u32>,
    six: Stretches<u128>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// The next wider network.
    parent: u32,
}

/// Where each stretch begins, and whose it is.
#[derive(Debug)]
struct Stretches<B> {
    starts: Vec<B>,
    owners: Vec<u32>,
}

/// One prefix while stretches are built: first and last address, bits, entry.
type Prefix<B> = (B, B, u8, u32);

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self::new(std::iter::empty())
    }
}

impl<T> Networks<T> {
    /// Of two equal networks the later one counts first.
    pub(super) fn new(networks: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let (mut four, mut six, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (network, value)) in networks.into_iter().enumerate() {
            entries.push(Entry { value, parent: NOBODY });
            let index = index as u32;
            match canonical(network) {
                IpNet::V4(net) => {
                    four.push((net.network().to_bits(), net.broadcast().to_bits(), net.prefix_len(), index));
                }
                IpNet::V6(net) => {
                    six.push((net.network().to_bits(), net.broadcast().to_bits(), net.prefix_len(), index));
                }
            }
        }
        let four = Stretches::new(four, |last| last.checked_add(1), &mut entries);
        let six = Stretches::new(six, |last| last.checked_add(1), &mut entries);
        Self { entries, four, six }
    }

    /// The value of the narrowest network with `address` that `accept` accepts.
    pub(super) fn find(&self, address: IpAddr, accept: impl Fn(&T) -> bool) -> Option<&T> {
        let mut owner = match address.to_canonical() {
            IpAddr::V4(address) => self.four.owner(address.to_bits()),
            IpAddr::V6(address) => self.six.owner(address.to_bits()),
        };
        while let Some(entry) = self.entries.get(owner as usize) {
            if accept(&entry.value) {
                return Some(&entry.value);
            }
            owner = entry.parent;
        }
        None
    }
}

/// A network of IPv4 addresses mapped into IPv6 as what it stands for.
pub(super) fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(net) = network
        && let (Some(address), Some(bits)) = (net.network().to_ipv4_mapped(), net.prefix_len().checked_sub(96))
        && let Ok(mapped) = ipnet::Ipv4Net::new(address, bits)
    {
        return IpNet::V4(mapped);
    }
    network.trunc()
}

impl<B: Copy + Ord> Stretches<B> {
    fn new<T>(mut prefixes: Vec<Prefix<B>>, after: impl Fn(B) -> Option<B>, entries: &mut [Entry<T>]) -> Self {
        prefixes.sort_by_key(|&(start, _, bits, _)| (start, bits));
        let mut made = Self { starts: Vec::new(), owners: Vec::new() };
        let mut open: Vec<(B, u32)> = Vec::new();
        let close = |made: &mut Self, open: &mut Vec<(B, u32)>, before: Option<B>| {
            while let Some(&(last, _)) = open.last()
                && before.is_none_or(|before| last < before)
            {
                open.pop();
                if let Some(next) = after(last) {
                    made.begin(next, open.last().map_or(NOBODY, |(_, owner)| *owner));
                }
            }
        };
        for (start, last, _, index) in prefixes {
            close(&mut made, &mut open, Some(start));
            entries[index as usize].parent = open.last().map_or(NOBODY, |(_, owner)| *owner);
            made.begin(start, index);
            open.push((last, index));
        }
        close(&mut made, &mut open, None);
        made
    }

    fn begin(&mut self, start: B, owner: u32) {
        match self.starts.last() {
            Some(last) if *last == start => *self.owners.last_mut().expect("as long as the starts") = owner,
            _ => {
                self.starts.push(start);
                self.owners.push(owner);
            }
        }
    }

    fn owner(&self, address: B) -> u32 {
        let after = self.starts.partition_point(|start| *start <= address);
        after.checked_sub(1).map_or(NOBODY, |index| self.owners[index])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks() -> impl Strategy<Value = Vec<IpNet>> {
        // Few distinct addresses, so that prefixes nest and touch.
        let four = (0u32..64, 24u8..=32).prop_map(|(low, bits)| {
            IpNet::new(IpAddr::V4((0xCB00_7100 + low * 5).into()), bits).expect("at most 32 bits").trunc()
        });
        let edges = (any::<bool>(), 0u8..=8).prop_map(|(high, bits)| {
            IpNet::new(IpAddr::V4(if high { u32::MAX } else { 0 }.into()), bits).expect("few bits").trunc()
        });
        let six = (0u128..64, 112u8..=128).prop_map(|(low, bits)| {
            IpNet::new(IpAddr::V6(((0x2001_0db8 << 96) + low * 5).into()), bits).expect("at most 128").trunc()
        });
        proptest::collection::vec(prop_oneof![4 => four, 1 => edges, 3 => six], 0..40)
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..330).prop_map(|low| IpAddr::V4((0xCB00_7100 + low).into())),
            (0u128..330).prop_map(|low| IpAddr::V6(((0x2001_0db8 << 96) + low).into())),
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            Just(IpAddr::V4(u32::MAX.into())),
            Just(IpAddr::V4(0.into())),
        ]
    }

    proptest! {
        #[test]
        fn the_narrowest_accepted_network_is_found(nets in networks(), ask in addresses(), odd in any::<bool>()) {
            let table = Networks::new(nets.iter().copied().enumerate().map(|(index, net)| (net, index)));
            let accept = |index: &usize| !odd || index % 2 == 1;
            let plain = nets.iter().enumerate()
                .filter(|(index, net)| net.contains(&ask) && accept(index))
                .max_by_key(|(index, net)| (net.prefix_len(), *index))
                .map(|(index, _)| index);
            prop_assert_eq!(table.find(ask, accept).copied(), plain);
        }
    }

    #[test]
    fn ipv4_in_ipv6_clothes_is_ipv4() {
        let table =
            Networks::new([("203.0.113.0/24".parse().unwrap(), 1), ("::ffff:10.0.0.0/104".parse().unwrap(), 2)]);
        assert_eq!(table.find("::ffff:203.0.113.9".parse().unwrap(), |_| true), Some(&1));
        assert_eq!(table.find("10.9.9.9".parse().unwrap(), |_| true), Some(&2));
        assert_eq!(table.find("11.9.9.9".parse().unwrap(), |_| true), None);
    }
}
