//! Communities of a graph: the Leiden algorithm (Traag, Waltman & van Eck 2019), for modularity with a resolution
//! (Reichardt & Bornholdt 2006).

use std::collections::VecDeque;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use restage_stage::{Result, artifact::Csr};

/// Rounds over all levels, if there is something to gain for so long.
const ROUNDS: usize = 10;
/// What is gained by less is rounding.
const GAIN: f64 = 1e-10;

/// A community per node, numbered without gaps, and how good that is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Communities {
    pub(crate) of: Vec<usize>,
    pub(crate) count: usize,
    pub(crate) modularity: f64,
}

/// The communities of a graph whose edges count in both directions.
///
/// # Errors
/// Those of `check`, which is asked before each level.
pub(crate) fn leiden(
    edges: &Csr,
    resolution: f64,
    rng: &mut ChaCha8Rng,
    check: impl Fn() -> Result<()>,
) -> Result<Communities> {
    let whole = Nodes::of(edges);
    let mut of: Vec<usize> = (0..edges.n_rows()).collect();
    for _ in 0..ROUNDS {
        let before = whole.modularity(&of, resolution);
        of = round(&whole, of, resolution, rng, &check)?;
        if whole.modularity(&of, resolution) <= before + GAIN {
            break;
        }
    }
    let count = renumber(&mut of);
    let modularity = whole.modularity(&of, resolution);
    Ok(Communities { of, count, modularity })
}

/// The resolution between 1e-4 and 1e3 that gives as many communities as wanted, or else nearly; the communities with it.
///
/// # Errors
/// Those of `check`.
pub(crate) fn search(
    edges: &Csr,
    wanted: usize,
    rng: impl Fn() -> ChaCha8Rng,
    check: impl Fn() -> Result<()>,
) -> Result<(f64, Communities)> {
    let (mut low, mut high) = (1e-4_f64, 1e3_f64);
    let mut best: Option<(f64, Communities)> = None;
    let mut resolution = 1.0_f64;
    for _ in 0..40 {
        let found = leiden(edges, resolution, &mut rng(), &check)?;
        let off = |count: usize| count.abs_diff(wanted);
        let count = found.count;
        if best.as_ref().is_none_or(|best| off(count) < off(best.1.count)) {
            best = Some((resolution, found));
        }
        match count.cmp(&wanted) {
            std::cmp::Ordering::Equal => break,
            std::cmp::Ordering::Less => low = resolution,
            std::cmp::Ordering::Greater => high = resolution,
        }
        resolution = (low * high).sqrt();
    }
    match best {
        Some(best) => Ok(best),
        None => Ok((resolution, leiden(edges, resolution, &mut rng(), &check)?)),
    }
}

/// Nodes with what connects them; those of higher levels are sets of nodes.
struct Nodes {
    /// Other nodes and the weight of the edge.
    near: Vec<Vec<(usize, f64)>>,
    /// The sum of a node's edges, those within it twice.
    strength: Vec<f64>,
    /// The sum of those.
    total: f64,
    /// What is within a node, twice.
    inner: Vec<f64>,
}

impl Nodes {
    /// A = (A + Aᵀ) / 2.
    fn of(edges: &Csr) -> Self {
        let back = edges.transpose();
        let near: Vec<Vec<(usize, f64)>> = (0..edges.n_rows())
            .map(|node| {
                let both = edges.entries(node).chain(back.entries(node));
                let mut row: Vec<(usize, f64)> = both
                    .filter(|&(other, _)| other != node)
                    .map(|(other, weight)| (other, f64::from(weight) / 2.0))
                    .collect();
                row.sort_by_key(|&(other, _)| other);
                row.dedup_by(|next, kept| {
                    let same = next.0 == kept.0;
                    kept.1 += if same { next.1 } else { 0.0 };
                    same
                });
                row
            })
            .collect();
        let inner = vec![0.0; near.len()];
        Self::with(near, inner)
    }

    fn with(near: Vec<Vec<(usize, f64)>>, inner: Vec<f64>) -> Self {
        let strength: Vec<f64> = near
            .iter()
            .zip(&inner)
            .map(|(row, inner)| row.iter().map(|(_, weight)| weight).sum::<f64>() + inner)
            .collect();
        Self { total: strength.iter().sum(), near, strength, inner }
    }

    fn len(&self) -> usize {
        self.near.len()
    }

    fn modularity(&self, of: &[usize], resolution: f64) -> f64 {
        if self.total == 0.0 {
            return 0.0;
        }
        let mut strength = vec![0.0; self.len()];
        let mut within = 0.0;
        for (node, row) in self.near.iter().enumerate() {
            strength[of[node]] += self.strength[node];
            within += self.inner[node];
            within += row.iter().filter(|(other, _)| of[*other] == of[node]).map(|(_, w)| w).sum::<f64>();
        }
        let expected: f64 = strength.iter().map(|k| k * k).sum::<f64>() / self.total;
        (within - resolution * expected) / self.total
    }

    /// Sets of nodes as nodes.
    fn merged(&self, of: &[usize], count: usize) -> Self {
        let mut inner = vec![0.0; count];
        let mut near: Vec<Vec<(usize, f64)>> = vec![Vec::new(); count];
        let mut sums = vec![0.0; count];
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); count];
        of.iter().enumerate().for_each(|(node, &set)| members[set].push(node));
        for (set, members) in members.iter().enumerate() {
            let mut touched = Vec::new();
            for &node in members {
                inner[set] += self.inner[node];
                for &(other, weight) in &self.near[node] {
                    let to = of[other];
                    if to == set {
                        inner[set] += weight;
                        continue;
                    }
                    if sums[to] == 0.0 {
                        touched.push(to);
                    }
                    sums[to] += weight;
                }
            }
            touched.sort_unstable();
            near[set] = touched.into_iter().map(|to| (to, std::mem::take(&mut sums[to]))).collect();
        }
        Self::with(near, inner)
    }
}

/// From the finest level up, until nothing moves.
fn round(
    whole: &Nodes,
    of: Vec<usize>,
    resolution: f64,
    rng: &mut ChaCha8Rng,
    check: &impl Fn() -> Result<()>,
) -> Result<Vec<usize>> {
    // Where each node of the whole is on the level at hand, and the communities of that level.
    let mut place: Vec<usize> = (0..whole.len()).collect();
    let mut level: Option<Nodes> = None;
    let mut communities = of;
    loop {
        check()?;
        let nodes = level.as_ref().unwrap_or(whole);
        move_nodes(nodes, &mut communities, resolution, rng);
        let count = renumber(&mut communities);
        if count == nodes.len() {
            break;
        }
        let mut sets = refine(nodes, &communities, resolution, rng);
        let sets_count = renumber(&mut sets);
        // Where nothing was put together, the communities themselves are: else it would never end.
        let (sets, sets_count) =
            if sets_count == nodes.len() { (communities.clone(), count) } else { (sets, sets_count) };
        let mut of_sets = vec![0; sets_count];
        sets.iter().zip(&communities).for_each(|(&set, &community)| of_sets[set] = community);
        let merged = nodes.merged(&sets, sets_count);
        place.iter_mut().for_each(|place| *place = sets[*place]);
        communities = of_sets;
        level = Some(merged);
    }
    Ok(place.into_iter().map(|place| communities[place]).collect())
}

/// Moves each node to the community where it gains the most, until none gains.
fn move_nodes(nodes: &Nodes, of: &mut [usize], resolution: f64, rng: &mut ChaCha8Rng) {
    let count = nodes.len();
    let mut strength = vec![0.0; count];
    let mut size = vec![0_usize; count];
    for node in 0..count {
        strength[of[node]] += nodes.strength[node];
        size[of[node]] += 1;
    }
    let mut free: Vec<usize> = (0..count).rev().filter(|&community| size[community] == 0).collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(rng);
    let mut queue = VecDeque::from(order);
    let mut waits = vec![true; count];
    let mut sums = Sums::new(count);
    while let Some(node) = queue.pop_front() {
        waits[node] = false;
        let (own, k) = (of[node], nodes.strength[node]);
        strength[own] -= k;
        size[own] -= 1;
        sums.of(&nodes.near[node], of);
        let gain = |community: usize, weight: f64| {
            if nodes.total > 0.0 { weight - resolution * k * strength[community] / nodes.total } else { 0.0 }
        };
        let mut best = (own, gain(own, sums.weight[own]));
        for &community in &sums.touched {
            let gained = gain(community, sums.weight[community]);
            if gained > best.1 + GAIN {
                best = (community, gained);
            }
        }
        if let Some(&empty) = free.last().filter(|_| size[own] > 0 && best.1 < -GAIN) {
            best = (empty, 0.0);
        }
        sums.clear();
        let to = best.0;
        if size[to] == 0 && to != own {
            free.pop();
        }
        if size[own] == 0 && to != own {
            free.push(own);
        }
        strength[to] += k;
        size[to] += 1;
        of[node] = to;
        if to != own {
            for &(other, _) in &nodes.near[node] {
                if of[other] != to && !waits[other] {
                    waits[other] = true;
                    queue.push_back(other);
                }
            }
        }
    }
}

/// Parts each community into sets that hold together: nodes that are alone join, within their community, the set where they
/// gain the most, if both are well connected with the rest of the community.
fn refine(nodes: &Nodes, communities: &[usize], resolution: f64, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let count = nodes.len();
    let mut of: Vec<usize> = (0..count).collect();
    let mut of_community = vec![0.0; count];
    (0..count).for_each(|node| of_community[communities[node]] += nodes.strength[node]);
    let expected = |strength: f64, whole: f64| resolution * strength * (whole - strength) / nodes.total;
    // Per set its strength, how many nodes it has, and the edges to the rest of its community.
    let mut strength = nodes.strength.clone();
    let mut size = vec![1_usize; count];
    let mut outside: Vec<f64> = (0..count)
        .map(|node| {
            let near = nodes.near[node].iter();
            near.filter(|(other, _)| communities[*other] == communities[node]).map(|(_, weight)| weight).sum()
        })
        .collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(rng);
    let mut sums = Sums::new(count);
    for node in order {
        let whole = of_community[communities[node]];
        if size[of[node]] != 1 || nodes.total == 0.0 || outside[node] < expected(nodes.strength[node], whole)
        {
            continue;
        }
        let near = nodes.near[node].iter().filter(|(other, _)| communities[*other] == communities[node]);
        let near: Vec<(usize, f64)> = near.copied().collect();
        sums.of(&near, &of);
        let mut best = (of[node], 0.0);
        for &set in &sums.touched {
            if set == of[node] || outside[set] < expected(strength[set], whole) {
                continue;
            }
            let gained = sums.weight[set] - resolution * nodes.strength[node] * strength[set] / nodes.total;
            if gained > best.1 + GAIN {
                best = (set, gained);
            }
        }
        let (set, weight) = (best.0, sums.weight[best.0]);
        sums.clear();
        if set != of[node] {
            outside[set] += outside[node] - 2.0 * weight;
            strength[set] += nodes.strength[node];
            size[set] += 1;
            size[of[node]] = 0;
            of[node] = set;
        }
    }
    of
}

/// The weight of a node's edges to each community.
struct Sums {
    weight: Vec<f64>,
    touched: Vec<usize>,
}

impl Sums {
    fn new(count: usize) -> Self {
        Self { weight: vec![0.0; count], touched: Vec::new() }
    }

    fn of(&mut self, near: &[(usize, f64)], of: &[usize]) {
        for &(other, weight) in near {
            let community = of[other];
            if self.weight[community] == 0.0 {
                self.touched.push(community);
            }
            self.weight[community] += weight;
        }
    }

    fn clear(&mut self) {
        self.touched.drain(..).for_each(|community| self.weight[community] = 0.0);
    }
}

/// Numbers communities without gaps, by their first node; returns how many there are.
fn renumber(of: &mut [usize]) -> usize {
    let mut number = vec![usize::MAX; of.len()];
    let mut count = 0;
    for community in of {
        if number[*community] == usize::MAX {
            number[*community] = count;
            count += 1;
        }
        *community = number[*community];
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    #[rustfmt::skip]
    const KARATE: [(usize, usize); 78] = [ (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8), (0, 10), (0, 11), (0, 12), (0, 13), (0, 17), (0, 19), (0, 21), (0, 31), (1, 2), (1, 3), (1, 7), (1, 13), (1, 17), (1, 19), (1, 21), (1, 30), (2, 3), (2, 7), (2, 27), (2, 28), (2, 32), (2, 9), (2, 8), (2, 13), (3, 7), (3, 12), (3, 13), (4, 6), (4, 10), (5, 6), (5, 10), (5, 16), (6, 16), (8, 30), (8, 32), (8, 33), (9, 33), (13, 33), (14, 32), (14, 33), (15, 32), (15, 33), (18, 32), (18, 33), (19, 33), (20, 32), (20, 33), (22, 32), (22, 33), (23, 25), (23, 27), (23, 32), (23, 33), (23, 29), (24, 25), (24, 27), (24, 31), (25, 31), (26, 29), (26, 33), (27, 33), (28, 31), (28, 33), (29, 32), (29, 33), (30, 32), (30, 33), (31, 32), (31, 33), (32, 33) ];

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    fn graph(nodes: usize, pairs: &[(usize, usize)]) -> Csr {
        let mut rows = vec![Vec::new(); nodes];
        for &(a, b) in pairs {
            rows[a].push((b as i32, 1.0));
            rows[b].push((a as i32, 1.0));
        }
        rows.iter_mut().for_each(|row| {
            row.sort_by_key(|&(other, _)| other);
            row.dedup();
        });
        Csr::from_rows(nodes, rows)
    }

    /// Zachary's karate club. Its largest modularity is known: 0.4198, with four communities (Brandes et al. 2008).
    /// leidenalg 0.12: `find_partition(Graph.Famous("Zachary"), ModularityVertexPartition).quality()` is 0.41978961.
    #[test]
    fn the_karate_club_falls_into_four() {
        let club = graph(34, &KARATE);
        let found = leiden(&club, 1.0, &mut rng(), || Ok(())).unwrap();
        assert_eq!(found.count, 4);
        assert!((found.modularity - 0.419_789_61).abs() < 1e-8, "{}", found.modularity);
    }

    #[test]
    fn the_resolution_is_searched_towards_a_number() {
        let club = graph(34, &KARATE);
        for wanted in [1, 2, 4, 6] {
            let (resolution, found) = search(&club, wanted, rng, || Ok(())).unwrap();
            assert_eq!(found.count, wanted, "at {resolution}");
        }
        // Two components can't be one community.
        let apart = graph(4, &[(0, 1), (2, 3)]);
        assert_eq!(search(&apart, 1, rng, || Ok(())).unwrap().1.count, 2);
        assert_eq!(search(&graph(3, &[]), 3, rng, || Ok(())).unwrap().1.count, 3);
    }

    #[test]
    fn cliques_in_a_ring_are_communities() {
        let mut pairs = Vec::new();
        for clique in 0..6 {
            let node = |member: usize| clique * 5 + member % 5;
            (0..5).for_each(|a| (0..a).for_each(|b| pairs.push((node(a), node(b)))));
            pairs.push((clique * 5, (clique + 1) % 6 * 5 + 1));
        }
        let found = leiden(&graph(30, &pairs), 1.0, &mut rng(), || Ok(())).unwrap();
        assert_eq!(found.count, 6);
        assert!((0..30).all(|node| found.of[node] == found.of[node / 5 * 5]));
    }

    /// Whether a community's nodes reach each other within it.
    fn hold_together(edges: &Csr, of: &[usize], community: usize) -> bool {
        let members: Vec<usize> = (0..of.len()).filter(|&node| of[node] == community).collect();
        let mut seen = vec![false; of.len()];
        let mut open = vec![members[0]];
        seen[members[0]] = true;
        while let Some(node) = open.pop() {
            for (other, _) in edges.entries(node) {
                if of[other] == community && !seen[other] {
                    seen[other] = true;
                    open.push(other);
                }
            }
        }
        members.iter().all(|&node| seen[node])
    }

    proptest! {
        #[test]
        fn communities_hold_together_and_none_is_better_left(
            pairs in prop::collection::vec((0..25_usize, 0..25_usize), 0..90), seed in 0..99_u64,
        ) {
            let pairs: Vec<_> = pairs.into_iter().filter(|(a, b)| a != b).collect();
            let edges = graph(25, &pairs);
            let found = leiden(&edges, 1.0, &mut ChaCha8Rng::seed_from_u64(seed), || Ok(())).unwrap();
            let nodes = Nodes::of(&edges);
            for community in 0..found.count {
                prop_assert!(hold_together(&edges, &found.of, community), "{:?}", found.of);
            }
            for node in 0..25 {
                for other in 0..=found.count {
                    let mut moved = found.of.clone();
                    // One that no node is in, too, where there is a number left.
                    moved[node] = other.min(24);
                    prop_assert!(nodes.modularity(&moved, 1.0) <= found.modularity + 1e-9, "{} to {}", node, other);
                }
            }
        }
    }
}
