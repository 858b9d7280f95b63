"""Buckets, queue, network and domain."""

import json
from pathlib import Path

import pytest
from conftest import synthesise

from retrieval.index.opensearch.mapping import HYBRID_PIPELINE

STATEFUL = ("AWS::S3::Bucket", "AWS::OpenSearchService::Domain", "AWS::SQS::Queue", "AWS::DynamoDB::Table")
SNAPSHOT = Path(__file__).with_name("stateful_resources.json")


def test_a_resource_that_holds_data_keeps_its_logical_id(stage):
    """CloudFormation takes another logical id for another resource: it would make an empty one and let the full one go.

    Where data may move, write the new ids into stateful_resources.json, in the commit that says how the data is moved.
    """
    have = {kind: sorted(stage.of_type(kind, "Storage")) for kind in STATEFUL}
    assert have == json.loads(SNAPSHOT.read_text())


def test_buckets_are_encrypted_versioned_and_closed_to_the_public(stage):
    buckets = stage.properties("AWS::S3::Bucket")
    assert len(buckets) == 6
    for bucket in buckets:
        closed = bucket["PublicAccessBlockConfiguration"]
        assert all(closed[rule] for rule in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"))
        assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
        assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]


def test_prod_keeps_its_data_when_the_stack_goes(prod):
    for kind in STATEFUL:
        for resource in prod.of_type(kind, "Storage").values():
            assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_what_stays_has_no_fixed_name_so_that_the_next_deployment_finds_none_taken(prod):
    for template in prod.templates.values():
        for resource in template["Resources"].values():
            if resource.get("DeletionPolicy", "Delete") not in ("Delete", "Snapshot"):
                names = {"BucketName", "QueueName", "TableName", "DomainName", "LogGroupName"} & set(resource.get("Properties", {}))
                assert not names, resource


def test_a_new_version_of_the_engine_is_an_update_in_place(stage):
    (domain,) = stage.of_type("AWS::OpenSearchService::Domain").values()
    assert domain["UpdatePolicy"] == {"EnableVersionUpgrade": True}


def test_the_set_up_of_opensearch_goes_before_the_network_that_it_needs(stage):
    """A deletion whose answer finds no way to CloudFormation waits an hour and fails."""
    for resource in stage.of_type("Custom::IndexResource", "Storage").values():
        kinds = {stage.templates["Storage"]["Resources"][name]["Type"] for name in resource["DependsOn"]}
        assert {"AWS::EC2::VPCEndpoint", "AWS::EC2::SecurityGroupEgress", "AWS::EC2::SubnetRouteTableAssociation"} <= kinds


def test_roles_of_opensearch_are_written_one_after_the_other(stage):
    grants = stage.of_type("Custom::IndexAccess")
    waiting = [name for name, grant in grants.items() if set(grant.get("DependsOn", [])) & set(grants)]
    assert len(waiting) == len(grants) - 1 > 0


def test_storage_is_protected_where_the_stage_says_so(dev, tmp_path):
    def protected(stage):
        manifest = json.loads((stage.folder / "manifest.json").read_text())
        stack = manifest["artifacts"]["Gavel-dev-Storage"]["properties"].get("terminationProtection", False)
        (table,) = stage.properties("AWS::DynamoDB::Table")
        return stack, table.get("DeletionProtectionEnabled", False)

    assert protected(dev) == (False, False)
    assert protected(synthesise("dev", tmp_path, protect=True)) == (True, True)


def test_zones_and_addresses_are_those_of_the_stage(tmp_path):
    named = synthesise("dev", tmp_path, zones=["us-west-1c"], vpc_cidr="10.20.0.0/20")
    assert [subnet["AvailabilityZone"] for subnet in named.properties("AWS::EC2::Subnet")] == ["us-west-1c"]
    assert [vpc["CidrBlock"] for vpc in named.properties("AWS::EC2::VPC")] == ["10.20.0.0/20"]


def test_towers_and_the_record_of_releases_never_expire(stage):
    for logical_id, bucket in stage.of_type("AWS::S3::Bucket").items():
        expires = any("ExpirationInDays" in rule for rule in bucket["Properties"]["LifecycleConfiguration"]["Rules"])
        assert expires == (not logical_id.startswith(("ItemStoreTowers", "ItemStoreReleases")))


def test_parts_and_manifests_are_announced_and_rejects_are_not(stage):
    notified = [bucket for bucket in stage.properties("AWS::S3::Bucket") if "NotificationConfiguration" in bucket]
    announced = [bucket for bucket in notified if "QueueConfigurations" in bucket["NotificationConfiguration"]]
    assert len(announced) == 1
    queues = announced[0]["NotificationConfiguration"]["QueueConfigurations"]
    suffixes = tuple(queue["Filter"]["S3Key"]["Rules"][0]["Value"] for queue in queues)
    assert all(queue["Event"] == "s3:ObjectCreated:*" for queue in queues)
    assert "part-00000.ndjson.gz".endswith(suffixes)
    assert "manifest-00001-of-00003.json".endswith(suffixes)
    assert not "rejects.ndjson".endswith(suffixes)


def test_eventbridge_is_told_of_new_items_and_of_nothing_else(stage):
    told = {
        logical_id
        for logical_id, bucket in stage.of_type("AWS::S3::Bucket").items()
        if "EventBridgeConfiguration" in bucket["Properties"].get("NotificationConfiguration", {})
    }
    assert {logical_id.startswith("ItemStoreNewItems") for logical_id in told} == {True}
    assert stage.of_type("Custom::S3BucketNotifications") == {}


def test_the_queue_stands_before_the_bucket_that_writes_to_it(stage):
    bucket = stage.of_type("AWS::S3::Bucket")["ItemStoreEmbeddings958005C2"]
    policies = [
        logical_id
        for logical_id, policy in stage.of_type("AWS::SQS::QueuePolicy").items()
        if any(s.get("Principal") == {"Service": "s3.amazonaws.com"} for s in policy["Properties"]["PolicyDocument"]["Statement"])
    ]
    assert len(policies) == 1
    assert policies[0] in bucket["DependsOn"]


def test_s3_may_send_for_this_account_alone(stage):
    statements = [s for p in stage.properties("AWS::SQS::QueuePolicy") for s in p["PolicyDocument"]["Statement"]]
    allowed = [s for s in statements if s["Effect"] == "Allow"]
    sent = [s["Condition"] for s in allowed if s["Principal"] == {"Service": "s3.amazonaws.com"}]
    assert sent == [{"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}]


def test_a_message_that_keeps_failing_goes_to_the_dead_letters(stage):
    redrives = [queue["RedrivePolicy"] for queue in stage.properties("AWS::SQS::Queue") if "RedrivePolicy" in queue]
    counts = {redrive["deadLetterTargetArn"]["Fn::GetAtt"][0][:-8]: redrive["maxReceiveCount"] for redrive in redrives}
    assert counts == {"ItemStoreDeadLetters": 20, "ItemStatesDeadLetters": 30}


def test_the_network_has_no_way_to_the_internet(stage):
    for kind in ("AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EIP", "AWS::EC2::EgressOnlyInternetGateway"):
        assert stage.of_type(kind) == {}
    subnets = stage.properties("AWS::EC2::Subnet")
    assert len(subnets) == stage.stage.azs
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in subnets)


def test_opensearch_takes_https_from_the_lambdas_alone(stage):
    groups = stage.of_type("AWS::EC2::SecurityGroup")
    assert not any(group["Properties"].get("SecurityGroupIngress") for group in groups.values())
    rules = stage.properties("AWS::EC2::SecurityGroupIngress")
    (rule,) = [r for r in rules if r["GroupId"]["Fn::GetAtt"][0].startswith("NetworkIndex")]
    assert (rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) == (443, 443, "tcp")
    assert rule["SourceSecurityGroupId"]["Fn::GetAtt"][0].startswith("NetworkFunctions")


def test_the_domain_is_encrypted_private_and_asks_for_signatures(stage):
    (domain,) = stage.properties("AWS::OpenSearchService::Domain")
    assert domain["EngineVersion"] == "OpenSearch_2.19"
    assert domain["NodeToNodeEncryptionOptions"] == {"Enabled": True}
    assert domain["EncryptionAtRestOptions"] == {"Enabled": True}
    assert domain["DomainEndpointOptions"] == {"EnforceHTTPS": True, "TLSSecurityPolicy": "Policy-Min-TLS-1-2-PFS-2023-10"}
    assert domain["AdvancedSecurityOptions"]["Enabled"]
    assert not domain["AdvancedSecurityOptions"]["InternalUserDatabaseEnabled"]
    assert domain["AdvancedSecurityOptions"]["MasterUserOptions"]["MasterUserARN"]["Fn::GetAtt"][0].startswith("VectorIndexAdmin")
    assert len(domain["VPCOptions"]["SubnetIds"]) == stage.stage.azs
    (statement,) = domain["AccessPolicies"]["Statement"]
    assert json.dumps(statement["Principal"]).endswith(':root"]]}}')  # this account, whose roles need a policy of their own


def test_template_and_pipeline_are_there_before_the_first_lot(stage):
    bodies = {r["Path"]: json.loads(r["Body"]) for r in stage.properties("Custom::IndexResource")}
    template, pipeline = bodies["/_index_template/auction-items"], bodies["/_search/pipeline/auction-items-rrf"]
    assert template["index_patterns"] == ["auction-items-*"]
    index = template["template"]["settings"]["index"]
    assert (index["number_of_shards"], index["number_of_replicas"]) == (stage.stage.index_shards, stage.stage.index_replicas)
    assert pipeline == HYBRID_PIPELINE


def test_slow_requests_are_logged(stage):
    (domain,) = stage.properties("AWS::OpenSearchService::Domain")
    logged = {kind for kind, option in domain["LogPublishingOptions"].items() if option["Enabled"]}
    assert logged == {"SEARCH_SLOW_LOGS", "INDEX_SLOW_LOGS", "ES_APPLICATION_LOGS"}


def test_dev_is_one_small_node_and_prod_spans_three_zones(dev, prod):
    (small,) = dev.properties("AWS::OpenSearchService::Domain")
    (large,) = prod.properties("AWS::OpenSearchService::Domain")
    assert (small["ClusterConfig"]["InstanceType"], small["ClusterConfig"]["InstanceCount"]) == ("t3.small.search", 1)
    assert not small["ClusterConfig"]["ZoneAwarenessEnabled"]
    assert large["ClusterConfig"]["ZoneAwarenessConfig"] == {"AvailabilityZoneCount": 3}
    assert (large["ClusterConfig"]["InstanceCount"], large["ClusterConfig"]["DedicatedMasterCount"]) == (3, 3)
    assert (prod.stage.index_shards, prod.stage.index_replicas) == (3, 1)  # every node holds a part, and any of them may be lost


@pytest.mark.parametrize("azs", [2])
def test_a_stage_may_span_two_zones(tmp_path, azs):
    two = synthesise("dev", tmp_path, azs=azs, opensearch_nodes=azs)
    (domain,) = two.properties("AWS::OpenSearchService::Domain")
    assert len(domain["VPCOptions"]["SubnetIds"]) == azs
