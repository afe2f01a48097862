#!/usr/bin/env python3
"""Records what the program sev-snp-measure (PyPI) prints for command lines, for tests/command_line.rs.

Usage: pip install sev-snp-measure==0.0.13 && python3 record_command_line.py > command-line.jsonl
In the arguments, FIRMWARE, KERNEL and INITRD are files: an image as record.py makes it, and two short texts.
"""
import json
import pathlib
import subprocess
import tempfile

import record

FIRMWARE = {
    "seed": 7,
    "pages": 8,
    "sections": [[0x800000, 0x3000, 1], [0x803000, 0x1000, 2], [0x804000, 0x1000, 3], [0x810000, 0x1000, 0x10]],
    "reset_eip": 0x80B004,
    "hash_base": 0x810C00,
}
SNP = "--mode snp --ovmf FIRMWARE"
COMMAND_LINES = [
    f"{SNP} --vcpus 1 --vcpu-type EPYC-v4",
    f"{SNP} --vcpus=4 --vcpu-type=EPYC-Milan",
    f"{SNP} --vcpus 4 --vcpu-sig 0xa00f11",
    f"{SNP} --vcpus 4 --vcpu-sig 10489617",
    f"{SNP} --vcpus 4 --vcpu-family 25 --vcpu-model 17 --vcpu-stepping 1",
    f"{SNP} --vcpus 4 --vcpu-sig 1 --vcpu-type EPYC --vcpu-family 25 --vcpu-model 1 --vcpu-stepping 1",
    f"{SNP} --vcpus 4 --vcpu-sig 0xa00f11 --vcpu-type EPYC",
    f"{SNP} --vcpus 2 --vcpu-type EPYC-Genoa --guest-features 0x21",
    f"{SNP} --vcpus 2 --vcpu-type EPYC-Genoa --guest-features 33",
    f"{SNP} --vcpus 2 --vcpu-type EPYC-Rome --vmm-type QEMU",
    f"{SNP} --vcpus 2 --vmm-type ec2",
    f"{SNP} --vcpus 2 --vmm-type gce",
    f"{SNP} --vcpus 2 --vcpu-type EPYC-Turin --kernel KERNEL",
    f"{SNP} --vcpus 2 --vcpu-type EPYC-Turin --kernel KERNEL --initrd INITRD --append console=ttyS0",
    f"{SNP} --vcpus 2 --vcpu-type EPYC-Turin --kernel KERNEL --append=-quiet",
    f"{SNP} --vcpus 2 --vcpu-type EPYC --output-format base64",
    f"{SNP} --vcpus 2 --vcpu-type EPYC --output-format hex --verbose",
    f"{SNP} --vcpus 2 --vcpu-type EPYC -v --output-format base64",
    f"{SNP} --vcpus 2 --vcpu-type EPYC --snp-ovmf-hash {'ab' * 48}",
    "--mode snp:ovmf-hash --ovmf FIRMWARE",
    "--mode snp:ovmf-hash --ovmf FIRMWARE -v --output-format base64",
    "--mode seves --ovmf FIRMWARE --vcpus 1 --vcpu-type EPYC-v4",
    "--mode seves --ovmf FIRMWARE --vcpus 4 --vcpu-type EPYC-v4 --kernel KERNEL --verbose",
    "--mode sev --ovmf FIRMWARE",
    "--mode sev --ovmf FIRMWARE --kernel KERNEL --initrd INITRD --append quiet",
    "--mode sev --ovmf FIRMWARE --verbose",
    # Refused, by both with an exit code other than 0.
    f"{SNP} --vcpu-type EPYC",
    f"{SNP} --vcpus 2",
    f"{SNP} --vcpus 2 --vcpu-type Skylake",
    f"{SNP} --vcpus 2 --vcpu-type EPYC --initrd INITRD",
    f"{SNP} --vcpus 2 --vcpu-type EPYC --append quiet",
    f"{SNP} --vcpus 2 --vmm-type xen",
    f"{SNP} --vcpus 2 --vcpu-type EPYC --output-format octal",
    "--mode sev --ovmf MISSING",
    "--mode none --ovmf FIRMWARE",
    "--mode sev",
]


def main():
    with tempfile.TemporaryDirectory() as folder:
        files = {"FIRMWARE": record.image(FIRMWARE), "KERNEL": b"a kernel", "INITRD": b"an initrd"}
        for name, content in files.items():
            pathlib.Path(folder, name).write_bytes(content)
        for line in COMMAND_LINES:
            run = subprocess.run(["sev-snp-measure", *line.split()], cwd=folder, capture_output=True, text=True)
            print(json.dumps({"arguments": line, "output": run.stdout if run.returncode == 0 else None}))


if __name__ == "__main__":
    main()
