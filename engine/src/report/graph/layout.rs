//! Where boxes and edges go: layers from top to bottom by the crate `dagre`, edges on lanes of their own.

use dagre::{
    EdgeLabel, LayoutOptions, NodeLabel,
    graph::{Graph, GraphOptions},
    layout::types::LabelPos,
};

/// Distance between boxes of a layer; an edge passes between them.
const BETWEEN_BOXES: f64 = 30.0;
/// Distance between edges that pass a layer side by side.
const BETWEEN_EDGES: f64 = 16.0;
/// Distance between layers, of which labels of edges are some.
const BETWEEN_LAYERS: f64 = 60.0;
/// Distance between edges at the border of a box.
const BETWEEN_ENDS: f64 = 16.0;

/// Width and height.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A point; y grows downwards.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

/// A rectangle by its centre.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rect {
    pub(super) centre: Point,
    pub(super) size: Size,
}

impl Rect {
    pub(super) fn left(&self) -> f64 {
        self.centre.x - self.size.width / 2.0
    }

    pub(super) fn top(&self) -> f64 {
        self.centre.y - self.size.height / 2.0
    }

    pub(super) fn bottom(&self) -> f64 {
        self.centre.y + self.size.height / 2.0
    }
}

/// An edge to lay out: two boxes and the size of what is written beside it.
pub(super) struct Link {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) label: Size,
}

/// The way of an edge.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Route {
    /// Where it leaves the upper box.
    pub(super) start: Point,
    /// Layers that it passes, each straight down: where it enters, and where it leaves.
    pub(super) lanes: Vec<(Point, Point)>,
    /// Where it meets the lower box.
    pub(super) end: Point,
    /// Room for its label, on one of the lanes.
    pub(super) label: Rect,
}

/// Boxes and routes, in the order in which they were given.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) size: Size,
    pub(super) boxes: Vec<Rect>,
    pub(super) routes: Vec<Route>,
}

/// Lays a graph out. The same graph always looks the same.
pub(super) fn layout(sizes: &[Size], links: &[Link]) -> Layout {
    let mut graph: Graph<NodeLabel, EdgeLabel> =
        Graph::with_options(GraphOptions { directed: true, multigraph: true, compound: true });
    for (index, Size { width, height }) in sizes.iter().copied().enumerate() {
        graph.set_node(index.to_string(), Some(NodeLabel { width, height, ..NodeLabel::default() }));
    }
    for (index, Link { from, to, label: Size { width, height } }) in links.iter().enumerate() {
        let label =
            EdgeLabel { width: *width, height: *height, labelpos: LabelPos::Center, ..EdgeLabel::default() };
        graph.set_edge(from.to_string(), to.to_string(), Some(label), Some(&index.to_string()));
    }
    let options = LayoutOptions {
        nodesep: BETWEEN_BOXES,
        edgesep: BETWEEN_EDGES,
        ranksep: BETWEEN_LAYERS,
        ..LayoutOptions::default()
    };
    dagre::layout(&mut graph, Some(options));

    let point = |x: Option<f64>, y: Option<f64>| Point { x: x.unwrap_or(0.0), y: y.unwrap_or(0.0) };
    let boxes: Vec<Rect> = sizes
        .iter()
        .enumerate()
        .map(|(index, size)| {
            let placed = graph.node(&index.to_string());
            let centre = placed.map_or(Point::default(), |placed| point(placed.x, placed.y));
            Rect { centre, size: *size }
        })
        .collect();
    let placed: Vec<(Rect, Vec<Point>)> = links
        .iter()
        .enumerate()
        .map(|(index, link)| {
            let name = index.to_string();
            let edge = graph.edge(&link.from.to_string(), &link.to.to_string(), Some(&name));
            let label = edge.map_or(Point::default(), |edge| point(edge.x, edge.y));
            // The first and the last point lie on the boxes' borders; we choose these ourselves.
            let inner = edge.and_then(|edge| edge.points.get(1..edge.points.len().saturating_sub(1)));
            let passes = inner.into_iter().flatten().map(|pass| Point { x: pass.x, y: pass.y }).collect();
            (Rect { centre: label, size: link.label }, passes)
        })
        .collect();
    let routes = routes(&boxes, links, placed);
    Layout { size: extent(&boxes, &routes), boxes, routes }
}

/// `dagre` lets an edge turn in the middle of a layer, where it would cut the corners of boxes beside it: here it goes
/// straight through a layer and turns between two.
fn routes(boxes: &[Rect], links: &[Link], placed: Vec<(Rect, Vec<Point>)>) -> Vec<Route> {
    let in_layers: Vec<Rect> = boxes.iter().copied().chain(placed.iter().map(|(label, _)| *label)).collect();
    let mut routes: Vec<Route> = placed
        .into_iter()
        .map(|(label, passes)| {
            let lanes = passes.into_iter().map(|pass| lane(pass, &in_layers)).collect();
            Route { lanes, label, ..Route::default() }
        })
        .collect();
    for (index, at) in boxes.iter().enumerate() {
        let leaving: Vec<usize> = (0..links.len()).filter(|link| links[*link].from == index).collect();
        let towards = |route: &Route| route.lanes.first().map_or(0.0, |(enter, _)| enter.x);
        for (link, x) in spread(at, leaving, |link| towards(&routes[link])) {
            routes[link].start = Point { x, y: at.bottom() };
        }
        let meeting: Vec<usize> = (0..links.len()).filter(|link| links[*link].to == index).collect();
        let towards = |route: &Route| route.lanes.last().map_or(0.0, |(_, leave)| leave.x);
        for (link, x) in spread(at, meeting, |link| towards(&routes[link])) {
            routes[link].end = Point { x, y: at.top() };
        }
    }
    routes
}

/// From the top of a pass's layer to its bottom.
fn lane(pass: Point, in_layers: &[Rect]) -> (Point, Point) {
    let same_layer = in_layers.iter().filter(|rect| (rect.centre.y - pass.y).abs() < 0.5);
    let half = same_layer.map(|rect| rect.size.height / 2.0).fold(0.0, f64::max);
    (Point { x: pass.x, y: pass.y - half }, Point { x: pass.x, y: pass.y + half })
}

/// Ends of edges side by side on a box's border, in the order in which the edges come: they do not cross there.
fn spread(at: &Rect, mut links: Vec<usize>, towards: impl Fn(usize) -> f64) -> Vec<(usize, f64)> {
    links.sort_by(|a, b| towards(*a).total_cmp(&towards(*b)));
    let gaps = links.len().saturating_sub(1) as f64;
    let gap = BETWEEN_ENDS.min((at.size.width - BETWEEN_ENDS) / gaps.max(1.0));
    let first = at.centre.x - gap * gaps / 2.0;
    links.into_iter().enumerate().map(|(slot, link)| (link, first + gap * slot as f64)).collect()
}

fn extent(boxes: &[Rect], routes: &[Route]) -> Size {
    let rects = boxes.iter().chain(routes.iter().map(|route| &route.label));
    let mut size = Size::default();
    for rect in rects {
        size.width = size.width.max(rect.centre.x + rect.size.width / 2.0);
        size.height = size.height.max(rect.bottom());
    }
    for (_, leave) in routes.iter().flat_map(|route| &route.lanes) {
        size.width = size.width.max(leave.x);
    }
    size
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Graphs of up to 40 boxes whose edges go from lower to higher indices, as those of a checked workflow could.
    fn graphs() -> impl Strategy<Value = (Vec<Size>, Vec<(usize, usize, Size)>)> {
        let size = |width, height| (width, height).prop_map(|(width, height)| Size { width, height });
        (1..40usize).prop_flat_map(move |count| {
            let sizes = prop::collection::vec(size(60.0..300.0, 30.0..80.0), count);
            let ends = (0..count, 0..count, size(0.0..120.0, 0.0..30.0));
            let edges = prop::collection::vec(ends, 0..2 * count).prop_map(|edges| {
                let forward = edges.into_iter().filter(|(from, to, _)| from != to);
                forward.map(|(from, to, size)| (from.min(to), from.max(to), size)).collect()
            });
            (sizes, edges)
        })
    }

    fn overlap(a: &Rect, b: &Rect) -> bool {
        let (dx, dy) = ((a.centre.x - b.centre.x).abs(), (a.centre.y - b.centre.y).abs());
        dx < (a.size.width + b.size.width) / 2.0 - 1e-6 && dy < (a.size.height + b.size.height) / 2.0 - 1e-6
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn nothing_overlaps_and_every_edge_goes_down((sizes, edges) in graphs()) {
            let links: Vec<Link> =
                edges.iter().map(|(from, to, label)| Link { from: *from, to: *to, label: *label }).collect();
            let layout = layout(&sizes, &links);
            prop_assert_eq!(&layout, &super::layout(&sizes, &links));
            for (index, one) in layout.boxes.iter().enumerate() {
                prop_assert!(one.left() > -1e-6 && one.top() > -1e-6);
                for other in &layout.boxes[..index] {
                    prop_assert!(!overlap(one, other), "boxes {one:?} and {other:?}");
                }
                for route in &layout.routes {
                    prop_assert!(!overlap(one, &route.label), "box {one:?} and a label {:?}", route.label);
                }
            }
            for (route, link) in layout.routes.iter().zip(&links) {
                prop_assert!(layout.boxes[link.from].bottom() < layout.boxes[link.to].top());
                let mut y = route.start.y;
                for (enter, leave) in &route.lanes {
                    prop_assert!(y <= enter.y && enter.y <= leave.y && enter.x == leave.x);
                    y = leave.y;
                    let between = Point { x: enter.x, y: (enter.y + leave.y) / 2.0 };
                    let size = Size { width: 0.0, height: leave.y - enter.y };
                    let lane = Rect { centre: between, size };
                    for one in &layout.boxes {
                        prop_assert!(!overlap(one, &lane), "box {one:?} and the lane {lane:?}");
                    }
                }
                prop_assert!(y <= route.end.y);
            }
        }
    }

    #[test]
    fn a_hundred_boxes_and_none() {
        let size = Size { width: 100.0, height: 40.0 };
        let links: Vec<Link> = (1..100).map(|to| Link { from: to / 3, to, label: size }).collect();
        assert_eq!(layout(&[size; 100], &links).boxes.len(), 100);
        assert_eq!(layout(&[], &[]).size, Size::default());
        assert_eq!(layout(&[size], &[]).size, size);
        let circle = [(0, 1), (1, 0), (1, 1)].map(|(from, to)| Link { from, to, label: size });
        assert_eq!(layout(&[size; 2], &circle).routes.len(), 3, "no workflow, but no panic either");
    }
}
