//! Functions by which programs say what is no leak: found where they are defined, also beside no allocator, and left alone where
//! others have their code.

use leaktrace::probes::plan::{Annotation, Plan, PlanOptions, Role, Why, plan};

use super::image::{
    Image,
    Visibility::{Exported, Hidden, Imported},
};

/// What compilers make of a function that does nothing.
const NOTHING: &[u8] = &[0xc3];

fn planned(image: &Image) -> Plan {
    plan(&image.build(), &PlanOptions::default()).unwrap()
}

fn found(plan: &Plan) -> Vec<Annotation> {
    let mut found: Vec<_> = plan.annotations.iter().map(|probe| probe.annotation).collect();
    found.sort_unstable();
    found
}

#[test]
fn they_are_found_in_an_object_that_allocates_nothing() {
    let mut image = Image::library("libstubs.so");
    let ignore = image.function(&["__lsan_ignore_object"], Exported, NOTHING);
    image.function(&["__lsan_disable"], Exported, NOTHING);
    image.function(&["__lsan_enable"], Hidden, NOTHING);
    image.function(&["__lsan_is_turned_off"], Exported, NOTHING);
    let plan = planned(&image);
    assert_eq!(found(&plan), [Annotation::Ignore, Annotation::Disable, Annotation::Enable]);
    assert_eq!((plan.role, plan.probes.len(), plan.skipped.len()), (Role::None, 0, 0));
    let probe = plan.annotations.iter().find(|probe| probe.annotation == Annotation::Ignore).unwrap();
    assert_eq!((probe.name, probe.offset), ("__lsan_ignore_object", image.file_offset(ignore)));
}

#[test]
fn a_program_that_only_refers_to_them_has_none() {
    let mut image = Image::library("libuser.so");
    image.function(&["use_them"], Exported, NOTHING);
    image.function(&["__lsan_disable"], Imported, NOTHING);
    assert_eq!(found(&planned(&image)), []);
}

#[test]
fn functions_that_were_folded_into_one_are_left_alone_and_told() {
    let folded = |names: &[&str]| {
        let mut image = Image::library("libfolded.so");
        image.function(names, Exported, NOTHING);
        image.function(&["__lsan_ignore_object"], Exported, NOTHING);
        let plan = planned(&image);
        assert_eq!(found(&plan), [Annotation::Ignore], "{names:?}");
        assert_eq!(plan.skipped.len(), 1, "{names:?}");
        assert_eq!(plan.skipped[0].why, Why::Folded);
        plan.unseen_annotations().collect::<Vec<_>>()
    };
    let why = "another function has the same code at the same address";
    assert_eq!(folded(&["__lsan_disable", "__lsan_enable"]), [format!("__lsan_disable, __lsan_enable ({why})")]);
    assert_eq!(folded(&["__lsan_enable", "a_hook_that_does_nothing"]), [format!("__lsan_enable ({why})")]);
}

#[test]
fn where_no_probe_can_be_put_that_is_told() {
    let mut image = Image::library("libodd.so");
    // in %dx, %al
    image.function(&["__lsan_disable"], Exported, &[0xec, 0xc3]);
    let plan = planned(&image);
    assert_eq!(found(&plan), []);
    assert!(matches!(plan.skipped[0].why, Why::Refused(_)), "{:?}", plan.skipped);
}
