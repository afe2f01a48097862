//! `ovmf-measure`: launch digests of confidential machines from an OVMF image. The options are those of `sev-snp-measure`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use clap::{Parser, ValueEnum};
use ovmf_measure::Firmware;
use ovmf_measure::sev::{CpuSignature, KernelHashes, LaunchDigest, MODELS, Memory, Vcpu, Vmm, sev, sev_es};
use ovmf_measure::tdx::{self, Order};

/// Calculates the launch digest of a SEV, SEV-ES or SEV-SNP guest, or the MRTD of a TDX guest.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example: ovmf-measure --mode snp --vcpus 4 --vcpu-type EPYC-Milan --ovmf OVMF.amdsev.fd \\\n             --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0'"
)]
struct Arguments {
    /// Say what was calculated, not only its digits
    #[arg(short, long)]
    verbose: bool,
    /// Guest mode
    #[arg(long)]
    mode: Mode,
    /// Number of guest vCPUs
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Type of guest vCPU: EPYC, EPYC-Rome, EPYC-Milan, EPYC-Genoa, EPYC-Turin, each also with -v<N>
    #[arg(long, value_name = "CPUTYPE")]
    vcpu_type: Option<String>,
    /// Guest vCPU signature value
    #[arg(long, value_name = "VALUE", value_parser = parse_u32)]
    vcpu_sig: Option<u32>,
    /// Guest vCPU family
    #[arg(long, value_name = "FAMILY", requires_all = ["vcpu_model", "vcpu_stepping"])]
    vcpu_family: Option<u32>,
    /// Guest vCPU model
    #[arg(long, value_name = "MODEL")]
    vcpu_model: Option<u32>,
    /// Guest vCPU stepping
    #[arg(long, value_name = "STEPPING")]
    vcpu_stepping: Option<u32>,
    /// Type of guest VMM
    #[arg(long, value_name = "VMMTYPE", default_value = "QEMU", ignore_case = true)]
    vmm_type: VmmType,
    /// OVMF file to calculate the digest from
    #[arg(long, value_name = "PATH")]
    ovmf: PathBuf,
    /// Kernel file to calculate the digest from
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Initrd file to calculate the digest from
    #[arg(long, value_name = "PATH", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Kernel command line to calculate the digest from
    #[arg(long, value_name = "CMDLINE", requires = "kernel", allow_hyphen_values = true)]
    append: Option<String>,
    /// SEV_FEATURES that the host offers [default: 0x1, for seves 0x0]
    #[arg(long, value_name = "VALUE", value_parser = parse_u64)]
    guest_features: Option<u64>,
    /// Output format
    #[arg(long, default_value = "hex")]
    output_format: Format,
    /// Digest of the OVMF image, calculated before by --mode snp:ovmf-hash
    #[arg(long, value_name = "HASH")]
    snp_ovmf_hash: Option<String>,
    /// Write the measured save areas to vmsa<N>.bin
    #[arg(long)]
    dump_vmsa: bool,
    /// The host's kernel leaves the floating-point words zero (before KVM_SEV_INIT2)
    #[arg(long)]
    legacy_fpu: bool,
    /// Print one line for each number of vCPUs from 1 to --vcpus
    #[arg(long)]
    table: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// SEV
    Sev,
    /// SEV-ES
    Seves,
    /// SEV-SNP
    Snp,
    /// SEV-SNP: the digest after the OVMF image alone
    #[value(name = "snp:ovmf-hash")]
    SnpOvmfHash,
    /// TDX: MRTD, each page added and extended at once (QEMU 9 and newer)
    Tdx,
    /// TDX: MRTD, pages of a section added first, then extended (TDX trees of QEMU 8)
    #[value(name = "tdx:two-pass")]
    TdxTwoPass,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VmmType {
    /// QEMU on KVM
    #[value(name = "QEMU")]
    Qemu,
    /// Amazon EC2
    Ec2,
    /// Amazon EC2 before April 2026
    #[value(name = "ec2-rdx0")]
    Ec2RdxZero,
    /// Google Compute Engine
    Gce,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Hexadecimal
    Hex,
    /// Base64
    Base64,
}

impl From<VmmType> for Vmm {
    fn from(kind: VmmType) -> Self {
        match kind {
            VmmType::Qemu => Self::Qemu,
            VmmType::Ec2 => Self::Ec2,
            VmmType::Ec2RdxZero => Self::Ec2RdxZero,
            VmmType::Gce => Self::Gce,
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let image = read(&arguments.ovmf)?;
    let firmware = Firmware::parse(&image).with_context(|| format!("{} cannot be used", arguments.ovmf.display()))?;
    let hashes = match &arguments.kernel {
        None => None,
        Some(kernel) => {
            let initrd = arguments.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
            let append = arguments.append.as_deref().unwrap_or_default();
            Some(KernelHashes::new(&read(kernel)?, &initrd, append.as_bytes()))
        }
    };
    let hashes = hashes.as_ref();
    match arguments.mode {
        Mode::Sev => arguments.print("SEV guest measurement", &sev(&firmware, hashes)?),
        Mode::Seves => {
            let (vcpu, cpus) = (arguments.vcpu(0)?, arguments.cpus()?);
            arguments.dump(&vcpu, &firmware, cpus)?;
            let least = if arguments.table { 1 } else { cpus };
            for count in least..=cpus {
                let digest = sev_es(&firmware, hashes, &vcpu, count)?;
                arguments.print_counted("SEV_ES guest measurement", count, &digest);
            }
        }
        Mode::Snp => {
            let (vcpu, cpus) = (arguments.vcpu(1)?, arguments.cpus()?);
            arguments.dump(&vcpu, &firmware, cpus)?;
            let memory = match &arguments.snp_ovmf_hash {
                Some(hash) => Memory::after_firmware(parse_digest(hash)?, &firmware, hashes, vcpu.vmm)?,
                None => Memory::measure(&firmware, hashes, vcpu.vmm)?,
            };
            let digests = memory.up_to(&vcpu, cpus)?;
            let least = if arguments.table { 1 } else { cpus };
            for (count, digest) in (1..).zip(&digests).filter(|(count, _)| *count >= least) {
                arguments.print_counted("SEV_SNP guest measurement", count, &digest.0);
            }
        }
        // What --snp-ovmf-hash takes, whatever the output format.
        Mode::SnpOvmfHash => println!("{}", LaunchDigest::of_firmware(&firmware)),
        Mode::Tdx => arguments.print("MRTD", &tdx::mrtd(&firmware, Order::SinglePass)?),
        Mode::TdxTwoPass => arguments.print("MRTD", &tdx::mrtd(&firmware, Order::TwoPass)?),
    }
    Ok(())
}

impl Arguments {
    fn cpus(&self) -> Result<u32> {
        self.vcpus.context("this mode needs --vcpus N")
    }

    fn vcpu(&self, default_features: u64) -> Result<Vcpu> {
        Ok(Vcpu {
            vmm: self.vmm_type.into(),
            signature: self.signature()?,
            features: self.guest_features.unwrap_or(default_features),
            legacy_fpu: self.legacy_fpu,
        })
    }

    /// Family, signature or type, in this order of precedence; only QEMU's machines need one.
    fn signature(&self) -> Result<CpuSignature> {
        if let (Some(family), Some(model), Some(stepping)) = (self.vcpu_family, self.vcpu_model, self.vcpu_stepping) {
            return Ok(CpuSignature::new(family, model, stepping));
        }
        if let Some(signature) = self.vcpu_sig {
            return Ok(CpuSignature(signature));
        }
        match &self.vcpu_type {
            Some(name) => CpuSignature::of_model(name).with_context(|| {
                let known: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
                format!(
                    "{name} is no vCPU type that is known here: {}, each also with -v<N>; or give --vcpu-sig",
                    known.join(", ")
                )
            }),
            None if self.vmm_type == VmmType::Qemu => bail!("this mode needs --vcpu-type, --vcpu-sig or --vcpu-family"),
            None => Ok(CpuSignature(0)),
        }
    }

    fn dump(&self, vcpu: &Vcpu, firmware: &Firmware, cpus: u32) -> Result<()> {
        for index in (0..cpus).take_while(|_| self.dump_vmsa) {
            let page = if index == 0 { vcpu.first() } else { vcpu.other(firmware.reset_eip()?) };
            let name = format!("vmsa{index}.bin");
            std::fs::write(&name, &page[..]).with_context(|| format!("Failed to write {name}"))?;
        }
        Ok(())
    }

    fn print(&self, what: &str, digest: &[u8]) {
        let digits = match self.output_format {
            Format::Hex => hex::encode(digest),
            Format::Base64 => base64::engine::general_purpose::STANDARD.encode(digest),
        };
        if self.verbose { println!("Calculated {what}: {digits}") } else { println!("{digits}") }
    }

    fn print_counted(&self, what: &str, cpus: u32, digest: &[u8]) {
        if self.table {
            print!("{cpus:4} ");
        }
        self.print(what, digest);
    }
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let path = path.as_ref();
    std::fs::read(path).with_context(|| format!("Failed to read {}", path.display()))
}

fn parse_digest(text: &str) -> Result<LaunchDigest> {
    let bytes = hex::decode(text).with_context(|| format!("--snp-ovmf-hash {text:?} is not hexadecimal"))?;
    let length = bytes.len();
    ensure!(length == 48, "--snp-ovmf-hash has {length} bytes, it must have 48");
    let mut digest = [0; 48];
    digest.copy_from_slice(&bytes);
    Ok(LaunchDigest(digest))
}

/// Decimal, or with a prefix hexadecimal, octal or binary.
fn parse_u64(text: &str) -> Result<u64, String> {
    let (digits, radix) = match text.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (&text[2..], 16),
        Some("0o") => (&text[2..], 8),
        Some("0b") => (&text[2..], 2),
        _ => (text, 10),
    };
    u64::from_str_radix(&digits.replace('_', ""), radix).map_err(|error| format!("{text:?}: {error}"))
}

fn parse_u32(text: &str) -> Result<u32, String> {
    parse_u64(text)?.try_into().map_err(|_| format!("{text:?} does not fit in 32 bits"))
}
