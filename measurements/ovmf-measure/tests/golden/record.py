#!/usr/bin/env python3
"""Records what sev-snp-measure (PyPI) says about a few hundred random firmware images, for tests/peer.rs.

Usage: pip install sev-snp-measure==0.0.13 && python3 record.py > sev-snp-measure.jsonl
Left out is what that program gets wrong or cannot do: unknown section types (it raises, QEMU loads zeros), empty sections (it
measures them, QEMU refuses), secrets and CPUID areas of several pages (it measures one), signature 0 on its command line.
"""
import json
import random
import struct
import tempfile
import uuid

from sevsnpmeasure import guest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType

MASK = (1 << 64) - 1


def noise(seed, length):
    """splitmix64, little-endian."""
    out = bytearray()
    while len(out) < length:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out += struct.pack("<Q", z ^ (z >> 31))
    return bytes(out[:length])


def image(case):
    data = bytearray(noise(case["seed"], case["pages"] * 4096))
    block = b"ASEV" + struct.pack("<III", 16 + 12 * len(case["sections"]), 1, len(case["sections"]))
    for section in case["sections"]:
        block += struct.pack("<III", *section)
    data[0:len(block)] = block
    table = b""
    for guid, entry in [
        ("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", case["reset_eip"])),
        ("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", case["hash_base"], 1024)),
        ("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", len(data))),
    ]:
        table += entry + struct.pack("<H", len(entry) + 18) + uuid.UUID(guid).bytes_le
    table += struct.pack("<H", len(table) + 18) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    data[-32 - len(table):-32] = table
    return bytes(data)


def main():
    rng = random.Random(20261123)
    for index in range(400):
        page = 0x1000 * rng.randrange(0x700, 0x900)
        sections = []
        for kind in rng.sample([1, 1, 2, 3, 4, 0x10], rng.randrange(1, 7)):
            size = 0x1000 if kind != 1 else 0x1000 * rng.randrange(1, 20)
            sections.append([page, size, kind])
            page += size
        hashes = [s for s in sections if s[2] == 0x10]
        with_kernel = bool(hashes) and rng.random() < 0.7
        case = {
            "seed": index,
            "pages": rng.choice([1, 2, 3, 8, 33]),
            "sections": sections,
            "reset_eip": rng.randrange(0x800000, 0x900000),
            "hash_base": hashes[0][0] + rng.choice([0, 0x400, 0xC00]) if hashes else 0,
            "mode": rng.choice(["snp", "snp", "snp", "seves", "sev"]),
            "vmm": rng.choice(["QEMU", "QEMU", "ec2", "gce"]),
            "cpus": rng.choice([1, 2, 3, 4, 7, 64]),
            "signature": rng.choice([0x800F12, 0x830F10, 0xA00F11, 0xA10F11, 0xB00F00, rng.randrange(1 << 32)]),
            "features": rng.choice([1, 0x21, 0x3FF, rng.getrandbits(40)]),
            "kernel": noise(index + 1000, rng.randrange(0, 9000)).hex()[:64] if with_kernel else None,
            "initrd": noise(index + 2000, 16).hex() if with_kernel and rng.random() < 0.7 else None,
            "append": "".join(rng.choice("abc =") for _ in range(rng.randrange(0, 30))) if with_kernel else None,
        }
        mode = {"snp": SevMode.SEV_SNP, "seves": SevMode.SEV_ES, "sev": SevMode.SEV}[case["mode"]]
        with tempfile.TemporaryDirectory() as folder:
            def write(name, data):
                path = f"{folder}/{name}"
                with open(path, "wb") as file:
                    file.write(data)
                return path
            ovmf = write("ovmf", image(case))
            kernel = write("kernel", bytes.fromhex(case["kernel"])) if with_kernel else None
            initrd = write("initrd", bytes.fromhex(case["initrd"])) if case["initrd"] else None
            digest = guest.calc_launch_digest(mode, case["cpus"], case["signature"], ovmf, kernel, initrd,
                                              case["append"], case["features"], "", VMMType[case["vmm"]])
        case["digest"] = digest.hex()
        print(json.dumps(case, sort_keys=True))


if __name__ == "__main__":
    main()
