//! Sections as graphs: the spots of each with the edges among them, which is what encoders on a graph take.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use restage_nn::Sparse;
use restage_stage::{
    Error, Result,
    artifact::{Graph, Table},
};

/// Some spots of a table, section by section. What they are to each other is all that is in here: edges to other spots are gone
/// before any weight is made, so that nothing of a spot that is left out is seen.
pub(crate) struct Sections {
    list: Vec<Section>,
    /// Per spot its section, and its place there.
    places: Vec<(usize, usize)>,
}

struct Section {
    name: String,
    /// Positions of its spots among those that the sections were made of.
    spots: Vec<usize>,
    /// Per spot those that it has edges from, itself among them, by their places in the section, with weights.
    near: Vec<Vec<(usize, f32)>>,
}

/// One or several whole sections, side by side.
pub(crate) struct Batch<'a> {
    sections: Vec<&'a Section>,
    /// Positions of the spots, section by section.
    pub(crate) spots: Vec<usize>,
    /// Spots x spots: D^-1/2 A D^-1/2 (Kipf & Welling 2017) with A the graph's weights, 1 for each spot itself where the graph
    /// has none, and D the sums of A's rows.
    pub(crate) edges: Arc<Sparse>,
}

impl Sections {
    /// Of these rows of a table.
    ///
    /// # Errors
    /// If a spot is not in the graph, a weight is negative or not finite, or no two of the spots are neighbours.
    pub(crate) fn new(table: &Table, graph: &Graph, rows: &[usize]) -> Result<Self> {
        let in_graph: HashMap<&str, usize> = graph.spots.iter().map(String::as_str).zip(0..).collect();
        let mut sections: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        // Per spot of the graph: which section, and which place in it.
        let mut places: Vec<Option<(&str, usize)>> = vec![None; graph.spots.len()];
        let mut of_spots = Vec::with_capacity(rows.len());
        for (position, &row) in rows.iter().enumerate() {
            let (name, section) = (&table.obs.index[row], table.section(row).unwrap_or_default());
            let Some(&spot) = in_graph.get(name.as_str()) else {
                return Err(Error::invalid(format!(
                    "spot {name} is not in the graph: make it from this table, or one with more spots"
                )));
            };
            let spots = sections.entry(section).or_default();
            places[spot] = Some((section, spots.len()));
            spots.push(position);
            of_spots.push(spot);
        }
        let mut crossing = 0;
        let mut near = |position: usize, section: &str, own: usize| {
            let spot = of_spots[position];
            let mut near = vec![(own, 1.0)];
            for (other, weight) in graph.edges.entries(spot) {
                if !(weight.is_finite() && weight >= 0.0) {
                    return Err(Error::invalid(format!(
                        "the edge from spot {} to {} weighs {weight}: weights must be 0 or more",
                        graph.spots[other], graph.spots[spot]
                    )));
                }
                match places[other] {
                    _ if other == spot => near[0].1 = weight,
                    Some((of, place)) if of == section => near.push((place, weight)),
                    Some(_) => crossing += 1,
                    None => {}
                }
            }
            Ok(near)
        };
        let sections = sections
            .into_iter()
            .map(|(name, spots)| {
                let near: Result<_> =
                    spots.iter().zip(0..).map(|(spot, own)| near(*spot, name, own)).collect();
                Ok(Section { name: name.to_owned(), near: normalised(near?), spots })
            })
            .collect::<Result<Vec<_>>>()?;
        if crossing > 0 {
            tracing::warn!("{crossing} edges of the graph lead from section to section, and are left out");
        }
        let this = Self::of(sections, rows.len());
        if this.edges() == 0 {
            return Err(Error::invalid(format!(
                "the graph has no edge between any two of the {} spots: is it of the same sections, and the same split?",
                rows.len()
            )));
        }
        Ok(this)
    }

    fn of(list: Vec<Section>, spots: usize) -> Self {
        let mut places = vec![(0, 0); spots];
        for (number, section) in list.iter().enumerate() {
            section.spots.iter().zip(0..).for_each(|(spot, place)| places[*spot] = (number, place));
        }
        Self { list, places }
    }

    /// Number of sections.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// Number of spots.
    pub(crate) fn spots(&self) -> usize {
        self.list.iter().map(|section| section.spots.len()).sum()
    }

    /// Number of edges between different spots; one that leads both ways is two.
    pub(crate) fn edges(&self) -> usize {
        self.list.iter().flat_map(|section| &section.near).map(|near| near.len() - 1).sum()
    }

    /// Steps an epoch, for so many spots a step at most: sections are not cut, and there is one a step at least.
    pub(crate) fn batches(&self, spots: usize) -> usize {
        self.spots().div_ceil(spots).clamp(1, self.count())
    }

    /// Some spots, by their positions, with as many rings around them as are asked for, each spot once, and the edges among
    /// them. Of the outermost ring those are left out: what they lead to is not seen from the middle.
    pub(crate) fn around(&self, positions: &[usize], rings: usize) -> (Vec<usize>, Arc<Sparse>) {
        let mut spots: Vec<usize> = positions.to_vec();
        let mut local: HashMap<usize, usize> = spots.iter().copied().zip(0..).collect();
        let mut ring = 0..spots.len();
        let mut rows = Vec::new();
        for _ in 0..rings {
            for at in ring.clone() {
                let (section, place) = self.places[spots[at]];
                let section = &self.list[section];
                let row = section.near[place].iter().map(|(other, weight)| {
                    let other = section.spots[*other];
                    let found = *local.entry(other).or_insert_with(|| {
                        spots.push(other);
                        spots.len() - 1
                    });
                    (found, *weight)
                });
                rows.push(row.collect::<Vec<_>>());
            }
            ring = ring.end..spots.len();
        }
        rows.resize(spots.len(), Vec::new());
        let edges = Sparse::from_rows(spots.len(), rows);
        (spots, edges)
    }

    /// These sections, by their positions.
    pub(crate) fn batch(&self, positions: &[usize]) -> Batch<'_> {
        let sections: Vec<_> = positions.iter().map(|position| &self.list[*position]).collect();
        let spots: Vec<_> = sections.iter().flat_map(|section| section.spots.iter().copied()).collect();
        let edges = side_by_side(&sections, spots.len(), <[_]>::to_vec);
        Batch { sections, spots, edges }
    }
}

impl Batch<'_> {
    /// Where the spots of each section lie.
    pub(crate) fn places(&self) -> impl Iterator<Item = Range<usize>> {
        self.sections.iter().scan(0, |end, section| {
            let first = *end;
            *end += section.spots.len();
            Some(first..*end)
        })
    }

    /// The places of all spots, each section's in the order that `order` puts them in, which is told its name.
    pub(crate) fn shuffled(&self, order: impl Fn(&str, &mut [usize])) -> Vec<usize> {
        let of_section = |(section, places): (&&Section, Range<usize>)| {
            let mut places: Vec<usize> = places.collect();
            order(&section.name, &mut places);
            places
        };
        self.sections.iter().zip(self.places()).flat_map(of_section).collect()
    }

    /// Spots x spots: the mean over each spot and its neighbours.
    pub(crate) fn neighbours_mean(&self) -> Arc<Sparse> {
        side_by_side(&self.sections, self.spots.len(), |near| {
            near.iter().map(|(place, _)| (*place, 1.0 / near.len() as f32)).collect()
        })
    }

    /// Sections x spots: the mean over each section.
    pub(crate) fn section_mean(&self) -> Arc<Sparse> {
        let row = |places: Range<usize>| {
            let share = 1.0 / places.len() as f32;
            places.map(|place| (place, share)).collect()
        };
        Sparse::from_rows(self.spots.len(), self.places().map(row))
    }

    /// Spots x sections: to each spot what its section has.
    pub(crate) fn of_section(&self) -> Arc<Sparse> {
        let row = |(section, of): (usize, &&Section)| vec![vec![(section, 1.0)]; of.spots.len()];
        Sparse::from_rows(self.sections.len(), self.sections.iter().enumerate().flat_map(row))
    }
}

/// D^-1/2 A D^-1/2, D the sums of A's rows.
fn normalised(mut near: Vec<Vec<(usize, f32)>>) -> Vec<Vec<(usize, f32)>> {
    let root =
        |near: &Vec<(usize, f32)>| near.iter().map(|(_, weight)| f64::from(*weight)).sum::<f64>().sqrt();
    let roots: Vec<f64> = near.iter().map(root).collect();
    for (near, own) in near.iter_mut().zip(&roots) {
        for (other, weight) in near {
            let product = own * roots[*other];
            *weight = if product > 0.0 { (f64::from(*weight) / product) as f32 } else { 0.0 };
        }
    }
    near
}

/// Sections as the blocks of one matrix, of rows that `row` makes of each spot's neighbours.
fn side_by_side(
    sections: &[&Section],
    spots: usize,
    row: impl Fn(&[(usize, f32)]) -> Vec<(usize, f32)>,
) -> Arc<Sparse> {
    let mut first = 0;
    let rows = sections.iter().flat_map(|section| {
        let before = first;
        first += section.spots.len();
        let shifted = |near: &Vec<(usize, f32)>| {
            row(near).into_iter().map(|(place, weight)| (before + place, weight)).collect::<Vec<_>>()
        };
        section.near.iter().map(shifted).collect::<Vec<_>>()
    });
    Sparse::from_rows(spots, rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use restage_nn::{tensor, values};
    use restage_stage::artifact::{Categorical, Column, Csr, Frame};

    use super::*;

    /// Five spots: a chain of three in section `b`, two neighbours in `a`, in an order that mixes them.
    fn table() -> Table {
        let section = Column::Categorical(Categorical::encode(["b", "a", "b", "b", "a"].map(Some)));
        Table {
            x: Csr::from_rows(1, vec![vec![]; 5]),
            obs: Frame {
                index: ["b0", "a0", "b1", "b2", "a1"].map(String::from).to_vec(),
                columns: vec![("section".into(), section)],
            },
            ..Table::default()
        }
    }

    fn graph(edges: &[(&str, &str, f32)]) -> Graph {
        let spots = ["a0", "a1", "b0", "b1", "b2", "elsewhere"];
        let at = |spot: &str| spots.iter().position(|other| *other == spot).unwrap();
        let row = |spot: usize| {
            let to_spot = edges.iter().filter(move |(_, to, _)| at(to) == spot);
            to_spot.map(|(from, _, weight)| (at(from) as i32, *weight)).collect()
        };
        Graph { spots: spots.map(String::from).to_vec(), edges: Csr::from_rows(6, (0..6).map(row)) }
    }

    /// Both ways.
    const CHAIN: [(&str, &str, f32); 8] = [
        ("b0", "b1", 1.0),
        ("b1", "b0", 1.0),
        ("b1", "b2", 1.0),
        ("b2", "b1", 1.0),
        ("a0", "a1", 1.0),
        ("a1", "a0", 1.0),
        ("elsewhere", "a0", 1.0),
        ("a0", "elsewhere", 1.0),
    ];

    fn dense(edges: &Arc<Sparse>) -> Vec<f32> {
        let size = edges.columns();
        let one = |at: usize| if at / size == at % size { 1.0 } else { 0.0 };
        values(&edges.product(tensor((0..size * size).map(one).collect(), (size, size))))
    }

    fn assert_near(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {wanted:?}");
    }

    #[test]
    fn weights_are_those_of_kipf_and_welling() {
        let sections = Sections::new(&table(), &graph(&CHAIN), &[0, 1, 2, 3, 4]).unwrap();
        assert_eq!((sections.count(), sections.spots(), sections.edges()), (2, 5, 6));
        let batch = sections.batch(&[1, 0]);
        assert_eq!(batch.spots, [0, 2, 3, 1, 4]);
        // Degrees with the spot itself: 2, 3, 2 in the chain, 2 and 2 in the pair.
        let (half, third, sixth) = (0.5, 1.0 / 3.0, 6.0_f32.sqrt().recip());
        let wanted = [
            [half, sixth, 0.0, 0.0, 0.0],
            [sixth, third, sixth, 0.0, 0.0],
            [0.0, sixth, half, 0.0, 0.0],
            [0.0, 0.0, 0.0, half, half],
            [0.0, 0.0, 0.0, half, half],
        ];
        assert_near(&dense(&batch.edges), wanted.as_flattened());
        let mean = [
            [half, half, 0.0, 0.0, 0.0],
            [third, third, third, 0.0, 0.0],
            [0.0, half, half, 0.0, 0.0],
            [0.0, 0.0, 0.0, half, half],
            [0.0, 0.0, 0.0, half, half],
        ];
        assert_near(&dense(&batch.neighbours_mean()), mean.as_flattened());
        let of_sections = [[third, third, third, 0.0, 0.0], [0.0, 0.0, 0.0, half, half]];
        assert_near(&dense(&batch.section_mean()), of_sections.as_flattened());
        let spread = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]];
        assert_near(&dense(&batch.of_section()), spread.as_flattened());
    }

    #[test]
    fn edges_of_spots_that_are_left_out_are_gone_before_weights_are_made() {
        let some = Sections::new(&table(), &graph(&CHAIN), &[0, 2]).unwrap();
        let batch = some.batch(&[0]);
        assert_near(&dense(&batch.edges), &[0.5; 4]);
        // A graph that says what spots themselves weigh keeps it.
        let own = [("b0", "b0", 3.0), ("b1", "b1", 3.0)];
        let with_own = Sections::new(&table(), &graph(&[&CHAIN[..], &own].concat()), &[0, 2]).unwrap();
        assert_near(&dense(&with_own.batch(&[0]).edges), &[0.75, 0.25, 0.25, 0.75]);
    }

    #[test]
    fn around_some_spots_are_rings_of_others() {
        let sections = Sections::new(&table(), &graph(&CHAIN), &[0, 1, 2, 3, 4]).unwrap();
        let weights = dense(&sections.batch(&[1]).edges);
        // From an end of the chain (b0, b1, b2) the first ring is its middle, the second its other end; of the pair it is the other.
        let (alone, none) = sections.around(&[0, 4], 0);
        assert_eq!((alone, none.entries()), (vec![0, 4], 0));
        let (near, edges) = sections.around(&[0, 4], 1);
        assert_eq!((near, edges.entries()), (vec![0, 4, 2, 1], 4));
        let (far, edges) = sections.around(&[0], 2);
        assert_eq!(far, [0, 2, 3]);
        let wanted = [&weights[..6], &[0.0; 3]].concat();
        assert_near(&dense(&edges), &wanted);
    }

    #[test]
    fn steps_are_of_whole_sections() {
        let sections = Sections::new(&table(), &graph(&CHAIN), &[0, 1, 2, 3, 4]).unwrap();
        assert_eq!([1, 2, 3, 4, 5, 100].map(|spots| sections.batches(spots)), [2, 2, 2, 2, 1, 1]);
        let batch = sections.batch(&[0, 1]);
        let turned = batch.shuffled(|section, places| {
            if section == "b" {
                places.reverse();
            }
        });
        assert_eq!((batch.spots, turned), (vec![1, 4, 0, 2, 3], vec![0, 1, 4, 3, 2]));
    }

    #[test]
    fn graphs_that_do_not_fit_are_refused() {
        let problem = |graph: &Graph, rows: &[usize]| match Sections::new(&table(), graph, rows) {
            Ok(_) => panic!("it fits"),
            Err(error) => error.to_string(),
        };
        let told = problem(&graph(&CHAIN), &[0, 3]);
        assert!(told.starts_with("the graph has no edge between any two of the 2 spots"), "{told}");
        let told = problem(&graph(&[("b0", "b1", -1.0)]), &[0, 2]);
        assert!(told.starts_with("the edge from spot b0 to b1 weighs -1"), "{told}");
        let mut other = graph(&CHAIN);
        other.spots[3] = "x".into();
        assert!(problem(&other, &[0, 2]).starts_with("spot b1 is not in the graph"));
    }
}
