module github.com/meshnetd/meshnetd/integration/runtimes/consul-0.19

go 1.26.9

tool github.com/meshnetd/meshnetd/integration/runtimes/consul-0.19

require github.com/hashicorp/consul/sdk v0.19.0
