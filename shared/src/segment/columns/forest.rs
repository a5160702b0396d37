//! The encoder's order of spans and logs: trace by trace, a parent before its children, a log behind its span.
//!
//! A parent that is not in the segment, or a span that only a log speaks of, is a *ghost*: an id without a row. A span that is
//! its own ancestor stands below a ghost of its parent's id, so that every span is in a tree.

use rustc_hash::FxHashMap;

use super::schema::Role;
use super::shape::Shapes;
use super::shred::Row;

/// A span or a ghost, in the order in which they are coded.
#[derive(Debug)]
pub(super) struct Node {
    /// 0 for one that has no parent.
    pub(super) depth: u32,
    pub(super) id: u64,
    /// `None` for a ghost.
    pub(super) row: Option<Row>,
    pub(super) logs: Vec<Row>,
}

/// The spans and ghosts of one trace.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) id: [u64; 2],
    pub(super) nodes: Vec<Node>,
}

/// What the encoder codes, in this order.
#[derive(Debug, Default)]
pub(super) struct Forest {
    pub(super) traces: Vec<Trace>,
    /// Spans and logs without a trace or span id.
    pub(super) loose: [Vec<Row>; 2],
}

const NONE: u32 = u32::MAX;

struct Found {
    trace: u32,
    id: u64,
    parent: u32,
    start: u64,
    row: Option<Row>,
    logs: Vec<Row>,
    visited: bool,
}

/// Collects spans before they have an order.
struct Builder<'a> {
    shapes: &'a Shapes,
    tape: &'a [u64],
    traces: Vec<[u64; 2]>,
    by_trace: FxHashMap<[u64; 2], u32>,
    nodes: Vec<Found>,
    by_id: FxHashMap<(u32, u64), u32>,
}

impl Builder<'_> {
    fn value(&self, row: Row, role: Role) -> Option<u64> {
        let place = self.shapes.all[row.shape as usize].place(role)?;
        Some(self.tape[row.at as usize + place])
    }

    fn trace(&mut self, row: Row) -> Option<u32> {
        let place = row.at as usize + self.shapes.all[row.shape as usize].place(Role::Trace)?;
        let id = [self.tape[place], self.tape[place + 1]];
        let next = self.traces.len() as u32;
        let number = *self.by_trace.entry(id).or_insert(next);
        if number == next {
            self.traces.push(id);
        }
        Some(number)
    }

    fn node(&mut self, trace: u32, id: u64, row: Option<Row>, start: u64) -> u32 {
        let node = Found { trace, id, parent: NONE, start, row, logs: Vec::new(), visited: false };
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// The span of this id, or a ghost.
    fn named(&mut self, trace: u32, id: u64, start: u64) -> u32 {
        if let Some(found) = self.by_id.get(&(trace, id)) {
            return *found;
        }
        let ghost = self.node(trace, id, None, start);
        self.by_id.insert((trace, id), ghost);
        ghost
    }
}

/// The order of `spans` and `logs`.
pub(super) fn plan(shapes: &Shapes, tape: &[u64], spans: &[Row], logs: &[Row]) -> Forest {
    let mut b = Builder {
        shapes,
        tape,
        traces: Vec::new(),
        by_trace: FxHashMap::default(),
        nodes: Vec::with_capacity(spans.len()),
        by_id: FxHashMap::default(),
    };
    let mut loose = [Vec::new(), Vec::new()];
    for row in spans {
        match (b.trace(*row), b.value(*row, Role::Span)) {
            (Some(trace), Some(id)) => {
                let start = b.value(*row, Role::Start).unwrap_or(0);
                let node = b.node(trace, id, Some(*row), start);
                b.by_id.entry((trace, id)).or_insert(node);
            }
            _ => loose[0].push(*row),
        }
    }
    for n in 0..b.nodes.len() {
        let Found { trace, row: Some(row), start, .. } = b.nodes[n] else { continue };
        if let Some(parent) = b.value(row, Role::Parent) {
            let mut parent_node = b.named(trace, parent, start);
            if parent_node == n as u32 {
                parent_node = b.node(trace, parent, None, start);
            }
            let of_parent = &mut b.nodes[parent_node as usize];
            if of_parent.row.is_none() {
                of_parent.start = of_parent.start.min(start);
            }
            b.nodes[n].parent = parent_node;
        }
    }
    for row in logs {
        match (b.trace(*row), b.value(*row, Role::Span)) {
            (Some(trace), Some(id)) => {
                let time = b.value(*row, Role::Time).unwrap_or(0);
                let node = b.named(trace, id, time);
                b.nodes[node as usize].logs.push(*row);
            }
            _ => loose[1].push(*row),
        }
    }
    Forest { traces: order(b), loose }
}

fn order(mut b: Builder<'_>) -> Vec<Trace> {
    let mut children = Children::of(&b.nodes);
    // The roots of each trace, by their start.
    let mut roots: Vec<Vec<u32>> = vec![Vec::new(); b.traces.len()];
    for n in children.of_parent(NONE) {
        roots[b.nodes[*n as usize].trace as usize].push(*n);
    }
    let mut out: Vec<(u64, Trace)> = Vec::with_capacity(roots.len());
    for (trace, roots) in roots.iter().enumerate() {
        let start = roots.first().map_or(u64::MAX, |n| b.nodes[*n as usize].start);
        let mut nodes = Vec::new();
        for root in roots {
            visit(&mut b.nodes, &children, *root, 0, &mut nodes);
        }
        out.push((start, Trace { id: b.traces[trace], nodes }));
    }
    // What no root leads to is in a ring.
    for n in 0..b.nodes.len() {
        if !b.nodes[n].visited {
            let parent = b.nodes[n].parent;
            let ghost = Node { depth: 0, id: b.nodes[parent as usize].id, row: None, logs: Vec::new() };
            let trace = b.nodes[n].trace as usize;
            out[trace].1.nodes.push(ghost);
            children.cut(parent, n as u32);
            let mut nodes = std::mem::take(&mut out[trace].1.nodes);
            visit(&mut b.nodes, &children, n as u32, 1, &mut nodes);
            out[trace].1.nodes = nodes;
        }
    }
    out.sort_by_key(|(start, _)| *start);
    out.into_iter().map(|(_, trace)| trace).collect()
}

fn visit(nodes: &mut [Found], children: &Children, from: u32, depth: u32, out: &mut Vec<Node>) {
    let mut open = vec![(from, depth)];
    while let Some((n, depth)) = open.pop() {
        let node = &mut nodes[n as usize];
        if std::mem::replace(&mut node.visited, true) {
            continue;
        }
        let logs = std::mem::take(&mut node.logs);
        out.push(Node { depth, id: node.id, row: node.row, logs });
        open.extend(children.of_parent(n).iter().rev().map(|child| (*child, depth + 1)));
    }
}

/// The children of each node, by their start.
struct Children {
    sorted: Vec<u32>,
    /// The first child of each node; those of none come last.
    first: Vec<u32>,
}

impl Children {
    fn of(nodes: &[Found]) -> Self {
        let slot = |parent: u32| (parent as usize).min(nodes.len());
        let mut first = vec![0u32; nodes.len() + 2];
        for node in nodes {
            first[slot(node.parent) + 1] += 1;
        }
        for n in 1..first.len() {
            first[n] += first[n - 1];
        }
        let mut next = first.clone();
        let mut sorted = vec![0; nodes.len()];
        for (node, n) in nodes.iter().zip(0..) {
            let at = &mut next[slot(node.parent)];
            sorted[*at as usize] = n;
            *at += 1;
        }
        for n in 0..=nodes.len() {
            sorted[first[n] as usize..first[n + 1] as usize].sort_by_key(|c| nodes[*c as usize].start);
        }
        Self { sorted, first }
    }

    fn of_parent(&self, parent: u32) -> &[u32] {
        let slot = (parent as usize).min(self.first.len() - 2);
        let children = &self.sorted[self.first[slot] as usize..self.first[slot + 1] as usize];
        // A child that was cut off is no longer there.
        &children[children.iter().take_while(|c| **c == NONE).count()..]
    }

    fn cut(&mut self, parent: u32, child: u32) {
        let slot = (parent as usize).min(self.first.len() - 2);
        let children = &mut self.sorted[self.first[slot] as usize..self.first[slot + 1] as usize];
        if let Some(at) = children.iter().position(|c| *c == child) {
            children[..=at].rotate_right(1);
            children[0] = NONE;
        }
    }
}
