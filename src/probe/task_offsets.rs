// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where the running kernel keeps the alternate signal stack and the pending return probes of a thread.

use anyhow::{Context, Result, ensure};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Composite, MemberAttr};

use crate::bpf::TaskOffsets;

/// Reads the kernel's BTF.
///
/// # Errors
/// The kernel has no BTF, or its structs have no such members.
pub fn task_offsets() -> Result<TaskOffsets> {
    let btf = Btf::from_vmlinux().context("failed to read the kernel's BTF")?;
    // A look-up compares the names of all types.
    let structure = |name: &'static str| {
        let found = btf.type_by_name::<Composite<'_>>(name);
        let found = found.with_context(|| format!("the kernel's BTF has no {name}"))?;
        Ok::<_, anyhow::Error>((name, found))
    };
    let offset = |(name, found): &(&str, Composite<'_>), member: &str| {
        let offset = member_offset(&btf, found, member);
        offset.with_context(|| format!("the kernel's BTF has no {name}.{member}"))
    };
    let task = structure("task_struct")?;
    let return_instance = structure("return_instance")?;
    let alt_stack = offset(&task, "sas_ss_sp")?;
    ensure!(
        offset(&task, "sas_ss_size")? == alt_stack + 8,
        "the kernel's task_struct has an unknown layout"
    );
    Ok(TaskOffsets {
        alt_stack,
        utask: offset(&task, "utask")?,
        return_probes: offset(&structure("uprobe_task")?, "return_instances")?,
        stack: offset(&return_instance, "stack")?,
        next: offset(&return_instance, "next")?,
    })
}

/// The offset of a member, in bytes. Members of anonymous structs count as members: the kernel can be built with those
/// of `task_struct` in one, to randomize their order.
fn member_offset(btf: &Btf<'_>, of: &Composite<'_>, name: &str) -> Option<u32> {
    of.iter().find_map(|member| {
        let MemberAttr::Normal { offset } = member.attr else {
            return None;
        };
        match member.name {
            Some(found) if found.to_str() == Some(name) => Some(offset / 8),
            Some(_) => None,
            None => {
                let inner = btf.type_by_id::<Composite<'_>>(member.ty)?;
                Some(offset / 8 + member_offset(btf, &inner, name)?)
            }
        }
    })
}
