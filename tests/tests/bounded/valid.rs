//! That the corpus has inputs which are accepted: where every one were refused at the door, the run would show little.

use attest::Code;
use attest::cluster::{BrokerCertificate, Cluster, Hints};
use attest::hpke::Context;
use attest::message::{self, Ack, Challenge, Commit, Evidence, Hello, Hold, NodeCertificate, Refused, Release, Resume};
use attest::recovery::Recovery;
use attest::runtime::{Activate, Activated, AkTrust, Answer, Question, by_certificate};
use attest::snp::{self, Product};
use attest::tpm::{AttestationKey, EndorsementKey};
use measurements::boot::Image;
use measurements::canonical::{self, Document};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::parse::fat::Fat;
use measurements::parse::fv::Volumes;
use measurements::parse::gpt::Gpt;
use measurements::parse::pe::Pe;
use measurements::parse::tcg_log::Log;
use measurements::parse::uki::Uki;
use measurements::parse::variables::Variables;
use measurements::parse::{cel, pcrs, smbios};
use ovmf_measure::Firmware;
use state_disk::layout::{HEADER, UNFINISHED};
use state_disk::{filesystem, recovery, unfinished};
use transparency::bundle::Bundle;
use transparency::statement::Statement;
use transparency::statement::channel::Channel;
use transparency::statement::measured_boot::MeasuredBoot;
use transparency::statement::provenance::Provenance;
use transparency::timestamp::Authority;
use transparency::trust_root::TrustRoot;

use crate::targets::{
    LARGEST_VOLUME, checkpoint_is_accepted, generation_is_accepted, known, luks2_header_is_accepted,
    tpm_quote_is_accepted,
};
use crate::{fuzz_folder, harness};

fn read(file: &str) -> Vec<u8> {
    std::fs::read(fuzz_folder().join("corpus").join(file)).unwrap()
}

#[test]
fn what_is_measured_is_read() {
    let _alone = harness::alone();
    for file in ["fat/fat12", "fat_large/fat16", "fat_large/fat32"] {
        let mut volume = read(file);
        volume.resize(LARGEST_VOLUME, 0);
        let content = Fat::parse(&volume).and_then(|fat| fat.read("EFI/BOOT/BOOTX64.EFI"));
        assert_eq!(content, Ok(Some(vec![7; 1200])), "{file}");
        let long = Fat::parse(&volume).and_then(|fat| fat.read("a name with blanks.conf"));
        assert_eq!(long, Ok(Some(Vec::new())), "{file}");
    }
    for file in ["boot_image/uki", "boot_image/disk"] {
        let image = Image::parse(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(image.measured().unwrap().running.len(), 4, "{file}");
    }
    for file in [
        "fv/two-volumes",
        "fv/behind-a-variable-store",
        "fv/large-file",
        "fv/volumes-in-volumes",
        "fv/unpacks-to-1-mib",
    ] {
        assert!(Volumes::unpack(&read(file)).is_ok(), "{file}");
    }
    for file in ["uki/stub-252", "uki/stub-257", "uki/stub-258", "uki/stub-262"] {
        assert!(Uki::parse(&read(file)).and_then(|uki| Ok(uki.kernel().map(drop)?)).is_ok(), "{file}");
    }
    assert_eq!(Firmware::parse(&read("ovmf/sev")).and_then(|firmware| firmware.sev_sections()).unwrap().len(), 4);
    assert_eq!(Firmware::parse(&read("ovmf/tdx")).unwrap().tdx_sections().unwrap().len(), 3);
    assert_eq!(Gpt::parse(&read("gpt/two-entries")).unwrap().entries.len(), 2);
    assert_eq!(Pe::parse(&read("pe/signed")).unwrap().sections().len(), 2);
    assert_eq!(Log::parse(&read("tcg_log/three-events")).unwrap().events.len(), 4);
    assert_eq!(cel::parse(&read("cel/two-phases")).unwrap().len(), 2);
    assert_eq!(MachineReference::parse(&read("machine/two-events")).unwrap().events.len(), 2);
    assert_eq!(ImageReference::parse(&read("image_reference/two-events")).unwrap().events.boot.len(), 1);
    assert_eq!(Variables::parse(&read("variables/one-variable")).unwrap().all.len(), 1);
    assert_eq!(pcrs::parse(&read("pcrs/two-registers")).unwrap()[&measurements::Bank::Sha256].len(), 2);
    assert!(smbios::measured(&read("smbios/three-structures")).is_ok());
}

fn message<M: Document>(file: &str) -> M {
    message::read(&read(file)).unwrap_or_else(|refusal| panic!("{file}: {refusal}")).0
}

#[test]
fn messages_are_read() {
    let _alone = harness::alone();
    for file in ["krp_request/hello", "krp_request/hello-of-a-blank-disk"] {
        message::<Hello>(file);
    }
    for file in ["krp_request/commit", "krp_request/commit-of-a-failure", "krp_request/commit-with-many-stages"] {
        message::<Commit>(file);
    }
    for file in ["krp_reply/challenge", "krp_reply/challenge-to-a-known-key"] {
        message::<Challenge>(file);
    }
    message::<Evidence>("krp_request/evidence");
    message::<Resume>("krp_request/resumption");
    message::<Hold>("krp_reply/hold");
    message::<Refused>("krp_reply/refusal");
    message::<Ack>("krp_reply/acknowledgement");
    message::<NodeCertificate>("krp_reply/node-certificate");
    message::<Question>("runtime/question");
    message::<Activate>("runtime/credential");
    message::<Activated>("runtime/activation");
    let release: Release = message("krp_reply/release");
    let context = Context::Release(&release.transcript.0);
    assert_eq!(**known::private_key().open(&release.share, context).unwrap(), [6; 32]);
    let answer: Answer = message("runtime/answer");
    let judge = |name, now| by_certificate(&answer, &known::cluster(), name, now);
    let Ok(AkTrust::NodeCertificate(certificate)) = judge(Some("node-1"), 2_000_000_000) else {
        panic!("no certificate")
    };
    assert_eq!((certificate.node.as_str(), certificate.reset), ("node-1", 3));
    assert!(judge(None, 0).is_ok());
    for (name, now, words) in [(Some("node-2"), 0, "this is the node"), (None, 2_000_000_001, "has ended")] {
        let refusal = judge(name, now).unwrap_err();
        assert!(refusal.found.contains(words), "{refusal}");
    }
    let response = connection::http::parse(&read("http_response/answer"), connection::LARGEST).unwrap().unwrap();
    assert_eq!((response.status, response.retry_after), (503, Some(7)));
}

#[test]
fn what_is_signed_is_opened() {
    let _alone = harness::alone();
    let (key, cluster) = (known::signed_by(), known::cluster());
    assert!(message::open::<Challenge>(&read("envelope/challenge"), &key).is_ok());
    assert!(message::open::<Challenge>(&read("envelope/sixteen-signatures"), &key).is_ok());
    assert!(message::open::<Release>(&read("envelope/release"), &key).is_ok());
    assert!(message::open::<Ack>(&read("envelope/acknowledgement"), &key).is_ok());
    assert!(message::open::<NodeCertificate>(&read("envelope/node-certificate"), &key).is_ok());
    assert!(cluster.certificate(&read("envelope/broker-certificate")).is_ok());
    assert_eq!(Cluster::read(&read("cluster/cluster")).unwrap(), cluster);
    assert!(Cluster::read(&read("cluster/disk-by-its-serial")).is_ok());
    assert_eq!(Hints::read(&read("cluster/hints")).unwrap().brokers.len(), 2);
    assert!(canonical::read::<BrokerCertificate>(&read("cluster/broker-certificate")).is_ok());
    for (file, accepted) in [
        ("signed", [true, true]),
        ("largest-size", [true, true]),
        ("thirty-signatures", [true, true]),
        ("more-lines-in-its-body", [false, true]),
        ("size-with-a-sign", [false, false]),
    ] {
        assert_eq!(checkpoint_is_accepted(&read(&format!("checkpoint/{file}"))), accepted, "{file}");
    }
}

#[test]
fn evidence_is_checked_to_its_end() {
    let _alone = harness::alone();
    for (file, accepted) in [
        ("recorded", [true, false]),
        ("signed-by-us", [false, true]),
        ("signed-by-us-for-another-conversation", [false, false]),
        ("two-selections", [false, false]),
    ] {
        assert_eq!(tpm_quote_is_accepted(&read(&format!("tpm_quote/{file}"))), accepted, "{file}");
    }
    assert!(AttestationKey::parse(&read("tpm_key/attestation-key")).is_ok());
    assert!(AttestationKey::parse(&read("tpm_key/attestation-key-whose-point-is-short")).is_ok());
    assert!(EndorsementKey::parse(&read("tpm_key/endorsement-key")).is_ok());
    // The binding is the last thing that is compared.
    for (file, code) in [
        ("recorded", Code::BinderMismatch),
        ("recorded-of-a-guest-under-debugging", Code::SnpDebug),
        ("signature-of-zeros", Code::ReportSignature),
        ("without-a-certificate", Code::VcekChain),
    ] {
        let bytes = read(&format!("snp_report/{file}"));
        let (report, certificate) = bytes.split_at(1184);
        let refusal = snp::check(report, certificate, Product::Milan, &known::binding()).unwrap_err();
        assert_eq!(refusal.code, code, "{file}: {refusal}");
    }
}

#[test]
fn what_is_on_a_disk_is_read() {
    let _alone = harness::alone();
    for (file, accepted) in [
        ("recorded", [true, true]),
        ("checksum-that-is-wrong", [false, true]),
        ("forty-tokens", [false, false]),
        ("sequence-that-differs", [false, false]),
    ] {
        assert_eq!(luks2_header_is_accepted(&read(&format!("luks2_header/{file}"))), accepted, "{file}");
    }
    for (file, accepted) in [
        ("one-copy", [true, true]),
        ("two-copies", [true, true]),
        ("largest-number", [true, true]),
        ("wrong-hmac", [false, true]),
        ("of-another-disk", [false, false]),
    ] {
        assert_eq!(generation_is_accepted(&read(&format!("generation/{file}"))), accepted, "{file}");
    }
    let mut area = vec![0; HEADER];
    area[UNFINISHED..][..32].copy_from_slice(&read("unfinished/mark"));
    assert_eq!(unfinished::take(&mut area), Some(known::DISK_BYTES));
    let size = filesystem::bytes(&read("superblock/ends-at-the-generation-block")[8..]);
    assert_eq!(size, Some((1 << 20) - 4096));
    let place = read("recovery/zeros-behind");
    let document = Recovery::read(recovery::find(&place).unwrap()).unwrap();
    assert_eq!(**document.open(&known::private_key()).unwrap(), [6; 32]);
}

#[test]
fn what_is_published_is_read() {
    let _alone = harness::alone();
    for file in ["channel", "release", "longest-proof-and-timestamps", "zeros-left-out"] {
        assert!(Bundle::parse(&read(&format!("bundle/{file}"))).is_ok(), "{file}");
    }
    assert!(Statement::<MeasuredBoot>::read(&read("statement/image")).is_ok());
    assert!(Statement::<MeasuredBoot>::read(&read("statement/machine")).is_ok());
    assert!(Statement::<Provenance>::read(&read("statement/provenance")).is_ok());
    for file in ["two-releases", "many-releases"] {
        assert!(Statement::<Channel>::read(&read(&format!("channel/{file}"))).is_ok(), "{file}");
    }
    assert!(TrustRoot::first(&read("trust_root/signed")).is_ok());
    let authority = Authority::parse(&read("timestamp/certificate")).unwrap();
    for file in ["token", "token-with-its-certificate"] {
        assert!(authority.time_of(&read(&format!("timestamp/{file}")), b"a signature").is_ok(), "{file}");
    }
}
