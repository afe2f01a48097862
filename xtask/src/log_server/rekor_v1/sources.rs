//! Rekor v1 and its Trillian, compiled for `cargo xtask test --with-rekor-v1`: the server as it is, without what Debian does not ship (entries of RPM packages and of TUF), and without what imports the most and no test here asks
//! for: other kinds of entries, storage, keys and profiles in clouds.

use super::super::go::Program;

const SERVE: &str = "github.com/sigstore/rekor/cmd/rekor-server/app/serve.go";
const API: &str = "github.com/sigstore/rekor/pkg/api/api.go";
const STORAGE: &str = "github.com/sigstore/rekor/pkg/storage/storage.go";
const SIGNER: &str = "github.com/sigstore/rekor/pkg/signer/signer.go";

/// Rekor v1.
pub(super) const REKOR: Program = Program {
    name: "rekor-server",
    stage: "rekor-v1",
    package: "golang-github-sigstore-rekor-dev",
    path: "github.com/sigstore/rekor/cmd/rekor-server",
    changes: &[
        // Its port for metrics, on all addresses.
        (SERVE, "\":2112\"", "\"127.0.0.1:0\""),
        (
            SERVE,
            r#"	"cloud.google.com/go/profiler"
"#,
            "",
        ),
        (
            SERVE,
            r#"	"github.com/sigstore/rekor/pkg/types/alpine"
	alpine_v001 "github.com/sigstore/rekor/pkg/types/alpine/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/cose"
	cose_v001 "github.com/sigstore/rekor/pkg/types/cose/v0.0.1"
"#,
            "",
        ),
        (
            SERVE,
            r#"	"github.com/sigstore/rekor/pkg/types/helm"
	helm_v001 "github.com/sigstore/rekor/pkg/types/helm/v0.0.1"
"#,
            "",
        ),
        (
            SERVE,
            r#"	"github.com/sigstore/rekor/pkg/types/jar"
	jar_v001 "github.com/sigstore/rekor/pkg/types/jar/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/rekord"
	rekord_v001 "github.com/sigstore/rekor/pkg/types/rekord/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/rfc3161"
	rfc3161_v001 "github.com/sigstore/rekor/pkg/types/rfc3161/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/rpm"
	rpm_v001 "github.com/sigstore/rekor/pkg/types/rpm/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/tuf"
	tuf_v001 "github.com/sigstore/rekor/pkg/types/tuf/v0.0.1"
"#,
            "",
        ),
        (
            SERVE,
            r#"			rekord.KIND:       {rekord_v001.APIVERSION},
			rpm.KIND:          {rpm_v001.APIVERSION},
			jar.KIND:          {jar_v001.APIVERSION},
"#,
            "",
        ),
        (
            SERVE,
            r#"			cose.KIND:         {cose_v001.APIVERSION},
			rfc3161.KIND:      {rfc3161_v001.APIVERSION},
			alpine.KIND:       {alpine_v001.APIVERSION},
			helm.KIND:         {helm_v001.APIVERSION},
			tuf.KIND:          {tuf_v001.APIVERSION},
"#,
            "",
        ),
        (
            SERVE,
            r#"		if viper.GetBool("gcp_cloud_profiling.enabled") {
			cfg := profiler.Config{
				Service:           viper.GetString("gcp_cloud_profiling.service"),
				ServiceVersion:    viper.GetString("gcp_cloud_profiling.service_version"),
				ProjectID:         viper.GetString("gcp_cloud_profiling.project_id"),
				EnableOCTelemetry: viper.GetBool("gcp_cloud_profiling.enable_oc_telemetry"),
			}

			if err := profiler.Start(cfg); err != nil {
				log.Logger.Warnf("Error configuring GCP Cloud Profiling: %v", err)
			}
		}

"#,
            "",
        ),
        (API, "_ \"github.com/sigstore/rekor/pkg/pubsub/gcp\" // Load GCP pubsub implementation", ""),
        (STORAGE, "_ \"gocloud.dev/blob/gcsblob\"", ""),
        (STORAGE, "_ \"gocloud.dev/blob/s3blob\"", ""),
        (SIGNER, "_ \"github.com/sigstore/sigstore/pkg/signature/kms/aws\"", ""),
        (SIGNER, "\tcase signer == TinkScheme:\n\t\treturn NewTinkSigner(ctx, tinkKEKURI, tinkKeysetPath)\n", ""),
    ],
    without: &["github.com/sigstore/rekor/pkg/signer/tink.go"],
    // Debian ships the code that embeds it, and not the page.
    with: &[("github.com/sigstore/rekor/pkg/generated/restapi/rekorHomePage.html", "Rekor\n")],
};

/// Trillian in one process, on its own storage in memory.
pub(super) const TRILLIAN: Program = Program {
    name: "trillian-memory",
    stage: "trillian-memory",
    package: "golang-github-google-trillian-dev",
    path: "cairn.invalid/trillian-memory",
    changes: &[],
    without: &[],
    with: &[("cairn.invalid/trillian-memory/main.go", include_str!("../../../log-server/trillian-memory.go"))],
};
