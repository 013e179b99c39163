//! From `.eh_frame` to rows.

use leaktrace::unwind_tables::UnwindTable;
use leaktrace_common::unwind::{Kind, Rule};

pub fn run(input: &[u8]) {
    let Ok(table) = UnwindTable::build(input) else { return };
    let rows: Vec<_> = table.rows().collect();
    assert!(rows.is_sorted_by(|a, b| a.pc() < b.pc() && a.rule() != b.rule()), "rows are not in order");
    assert!(rows.len() <= 4096 + input.len() / 4, "{} rows of {} bytes", rows.len(), input.len());
    assert!(table.size() >= 8 * rows.len() && table.size() <= 8 * rows.len() + 2 * 4096, "more padding than a chunk");
    assert!(rows.iter().all(|row| row.rule().kind() != Kind::None), "a row without a rule");

    // The object's own numbering of row addresses: the file's beginning, mapped at 0, has the base that 0 stands for.
    let base = (0..1024).map(|page| page * 4096).find_map(|offset| Some((offset, table.base_in_process(0, offset)?)));
    let _ = (base, table.shift(), table.without_rows().size());
    for vaddr in [0, 1, 0x1000, 0x40_1000, u64::MAX] {
        let _ = table.rule_at(vaddr);
        let _ = table.base_in_process(vaddr, vaddr);
    }
    search(&table, &rows.iter().map(|row| (row.pc(), row.rule())).collect::<Vec<_>>());
}

/// The search in chunks finds, at each row's address and before it, the row that a look at all of them finds.
fn search(table: &UnwindTable, rows: &[(u32, Rule)]) {
    let chunks = table.chunks();
    for (index, &(pc, rule)) in rows.iter().enumerate().take(4096) {
        let found = leaktrace_common::unwind::lookup(chunks, 0, chunks.len() as u32, pc);
        assert_eq!(found, rule, "at row {index}");
        if let Some(before) = pc.checked_sub(1) {
            let found = leaktrace_common::unwind::lookup(chunks, 0, chunks.len() as u32, before);
            let expected = index.checked_sub(1).map_or(Rule::GAP, |index| rows[index].1);
            assert_eq!(found, expected, "before row {index}");
        }
    }
}
