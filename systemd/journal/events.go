// SPDX-License-Identifier: Apache-2.0

//go:build linux

package journal

// messageIDs has one id for each event of this program, by which journalctl -x finds its entry in meshnetd.catalog.
// An id never changes, and is never used again.
var messageIDs = map[string]string{
	"pod_protected":        "ec16c93ee7837e6bd4b40f62b06589dd",
	"pod_refined":          "bfd870042954acb75f88e58e44a47030",
	"pod_readdressed":      "5f1c0d9e7ab34c2f8e61d40b92a7c3e8",
	"pod_late":             "c707fe2f23c76212b043ee614d234c8b",
	"pod_outdated":         "99bde795642fff1d8e76351e900b8dfc",
	"pod_unproven":         "7e0c4b5d3f1a4c0e9a6b2d8f5c17e394",
	"pod_skipped":          "eaf58199c4bd20defd862ceb92d06fc1",
	"pod_blocked":          "ea4108802bf0f116e8d6946efcf955c5",
	"pod_unprotected":      "23a966aeba3d8cc6187e4d408b5d3e04",
	"pod_stopped":          "aaa8dbc12d66c6f9dcaab557a38c4bd7",
	"pod_not_held":         "418b81eda08103e61a7cdd32bd0e3cfd",
	"pod_can_bypass":       "28a78d9a33434122a48e2a6259d6f142",
	"lockdown_packet":      "5b5c4509a08b403aa4bf9d56398c618e",
	"pod_unmeshed":         "c2e1b7f04d6a4f7f9a3e5d8b16c0a94d",
	"spec_contradicted":    "3388568450d0458dab80c6ff41baef7b",
	"kubelet_known":        "3181fe28747f412eb203e23f37e5943c",
	"kubelet_lost":         "71ecdfde09b74f978144e7956adcdb32",
	"neighbour":            "6dc1f454576f544dffbb8419808955ec",
	"proxy_identity":       "5a6b114537cb733b4dedfe5af0f905c8",
	"drift_found":          "26a87ad45c04977f219d6dd248789e33",
	"drift_repaired":       "82991ea4ef7055e3015f36e65d86dc0f",
	"backend_tried":        "ed3870b6bdb539810f176d22b9be642c",
	"no_ipv6":              "826203d97916abeb613805d8bc720edd",
	"no_user_namespaces":   "ddb397fcb980e8aba5d410bedc9778fd",
	"daemon_ready":         "8c7066d28670d3797976a13773ec2fa3",
	"nri_connected":        "1cff284fada665ac41ee9a9675ddafde",
	"nri_lost":             "915df5172e4b1082d8264adb02c8bd4e",
	"nri_waiting":          "5d9557b2d3a9b8800dd3cdd505d8bbc2",
	"nri_not_synchronized": "99a533e41d47468a9a35fbd41d0debaa",
	"nri_panic":            "2fb417e75216b0fe04c232fc26a6037d",
	"nri_stub":             "252c352878ec11821f6cf07aa2e58dd8",
	"config_reloaded":      "46f1e626b94bed2e65ef98291f4c7ee1",
	"config_rejected":      "69f91de106b66b1c2fd2269a6e4be5b5",
	"config_needs_restart": "58ee4126ed1cfc2a01bc428bca7fa48f",
	"no_status":            "103286b557da3b983e5f46de1f71fa01",
	"no_metrics":           "1bdcaf3b3b3130520441db2edca9fc3c",
	"log_dropped":          "2faff378b96dc0eb6e4665a04eb5db89",
	"no_notify":            "2ada410d3bfc6eca6928a9f33d937c98",
	"not_alive":            "180bf1458e082bcbcfc43ac4e02e80ef",
	"daemon_stopped":       "4ac38a60b2a5563eb7fb2eb09b018c10",
}
