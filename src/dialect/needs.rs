//! Topological order of names that need other names, and the cycles among them.

/// The result of [`order`].
#[derive(Debug, Default)]
pub struct Order<'a> {
    /// The roots and the names that they need, each once and after the names that it needs.
    pub names: Vec<&'a str>,
    /// The cycles. Each begins and ends with the same name.
    pub cycles: Vec<Vec<&'a str>>,
}

/// Walks the names that the roots need, depth first.
pub fn order<'a, Names: IntoIterator<Item = &'a str>>(
    roots: impl IntoIterator<Item = &'a str>,
    needs: impl Fn(&'a str) -> Names,
) -> Order<'a> {
    let mut order = Order::default();
    for root in roots {
        order.visit(root, &needs, &mut Vec::new());
    }
    order
}

impl<'a> Order<'a> {
    fn visit<Names: IntoIterator<Item = &'a str>>(
        &mut self,
        name: &'a str,
        needs: &impl Fn(&'a str) -> Names,
        trail: &mut Vec<&'a str>,
    ) {
        if self.names.contains(&name) {
            return;
        }
        let start = trail.iter().position(|known| *known == name);
        trail.push(name);
        match start {
            Some(start) => self.cycles.push(trail[start..].to_vec()),
            None => {
                for other in needs(name) {
                    self.visit(other, needs, trail);
                }
                self.names.push(name);
            }
        }
        trail.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(needs: &[(&'static str, &'static [&'static str])]) -> (String, Vec<String>) {
        let roots = needs.iter().map(|(name, _)| *name);
        let order = order(roots, |name| {
            let needs = needs.iter().filter(move |(known, _)| *known == name);
            needs.flat_map(|(_, needs)| needs.iter().copied())
        });
        let cycles = order.cycles.iter().map(|cycle| cycle.join(" "));
        (order.names.join(" "), cycles.collect())
    }

    #[test]
    fn a_name_comes_after_the_names_that_it_needs() {
        let (names, cycles) = found(&[("a", &["b", "c"]), ("b", &["c", "d"]), ("e", &[])]);
        assert_eq!(names, "c d b a e");
        assert!(cycles.is_empty());
    }

    #[test]
    fn cycles_begin_at_the_first_visited_name() {
        let (_, cycles) = found(&[("x", &["b"]), ("b", &["c"]), ("c", &["b", "c"])]);
        assert_eq!(cycles, ["b c b", "c c"]);
    }
}
