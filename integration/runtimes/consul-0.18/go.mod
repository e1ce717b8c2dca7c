module github.com/meshnetd/meshnetd/integration/runtimes/consul-0.18

go 1.26.8

tool github.com/meshnetd/meshnetd/integration/runtimes/consul-0.18

require github.com/hashicorp/consul/sdk v0.18.1
